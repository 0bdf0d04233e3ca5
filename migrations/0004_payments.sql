-- Money that moved. Nothing here is deleted with its order: no CASCADE on purpose.

CREATE TABLE payments (
  id                  bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  order_id            uuid NOT NULL REFERENCES orders,
  razorpay_payment_id text NOT NULL UNIQUE,
  status              text NOT NULL CHECK (status IN ('created', 'failed', 'authorized', 'captured', 'refunded')),
  method              text,
  amount_paise        bigint NOT NULL,
  fee_paise           bigint,
  tax_paise           bigint,   -- GST on the fee
  error_code          text,
  error_reason        text,
  raw                 jsonb,
  created_at          timestamptz NOT NULL DEFAULT now(),
  updated_at          timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX payments_order_idx  ON payments (order_id);
CREATE INDEX payments_status_idx ON payments (status, created_at DESC);

CREATE TABLE refunds (
  id                 bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  payment_id         bigint NOT NULL REFERENCES payments,
  idem_key           text NOT NULL UNIQUE CHECK (idem_key ~ '^[A-Za-z0-9_-]{10,}$'),   -- X-Refund-Idempotency
  razorpay_refund_id text UNIQUE,
  amount_paise       bigint NOT NULL CHECK (amount_paise > 0),
  status             text NOT NULL DEFAULT 'requested' CHECK (status IN ('requested', 'pending', 'processed', 'failed')),
  reason             text,
  arn                text,
  created_at         timestamptz NOT NULL DEFAULT now(),
  updated_at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX refunds_payment_idx ON refunds (payment_id);
CREATE INDEX refunds_open_idx    ON refunds (created_at) WHERE status IN ('requested', 'pending');

-- Every webhook is stored before it is answered, and applied afterwards, once.
CREATE TABLE webhook_events (
  event_id         text PRIMARY KEY,   -- X-Razorpay-Event-Id, or sha256:<of the raw body>
  event            text NOT NULL,
  account_id       text,
  payload          jsonb NOT NULL,
  raw              bytea NOT NULL,     -- the signed bytes
  event_created_at timestamptz,
  received_at      timestamptz NOT NULL DEFAULT now(),
  processed_at     timestamptz,
  attempts         int NOT NULL DEFAULT 0,
  next_attempt_at  timestamptz NOT NULL DEFAULT now(),   -- 'infinity': parked for a human
  last_error       text
);
CREATE INDEX webhook_events_todo_idx     ON webhook_events (next_attempt_at) WHERE processed_at IS NULL;
CREATE INDEX webhook_events_received_idx ON webhook_events (received_at);
