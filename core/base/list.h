/* Intrusive doubly linked ring. A head is a node; an unlinked node points to itself or is zeroed. */
#pragma once

#include "base/base.h"

struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *head)
{
    head->next = head->prev = head;
}
static inline bool list_is_empty(const struct list *head)
{
    return head->next == head;
}
static inline bool list_is_linked(const struct list *node)
{
    return node->next && node->next != node;
}

static inline void list_insert_before(struct list *at, struct list *node)
{
    node->prev = at->prev;
    node->next = at;
    at->prev->next = node;
    at->prev = node;
}

static inline void list_push(struct list *head, struct list *node)
{
    list_insert_before(head, node);
} /* at the end */
static inline void list_push_front(struct list *head, struct list *node)
{
    list_insert_before(head->next, node);
}

/* Safe on a node that is not linked. */
static inline void list_remove(struct list *node)
{
    if (node->next) {
        node->prev->next = node->next;
        node->next->prev = node->prev;
    }
    node->next = node->prev = node;
}

static inline struct list *list_pop(struct list *head) /* first, or NULL */
{
    if (list_is_empty(head))
        return NULL;
    struct list *node = head->next;
    list_remove(node);
    return node;
}

/* The body may remove `node` itself, nothing else. */
#define list_each(node, head)                                                                                          \
    for (struct list *node = (head)->next, *node##_next = node->next; node != (head);                                  \
         node = node##_next, node##_next = node->next)
