-- Invoices and credit notes as GST wants them (CGST rules 46 and 53): consecutive in their financial year, each series
-- its own. They are never changed and never deleted; what an invoice bought and taxed is in the order and its lines.
CREATE TABLE invoices (
  number      text PRIMARY KEY CHECK (number ~ '^[A-Za-z0-9/-]{1,16}$'),
  order_id    uuid NOT NULL UNIQUE REFERENCES orders,   -- no CASCADE: books stay
  total_paise bigint NOT NULL,
  tax_paise   bigint NOT NULL,                          -- inside the total
  issued_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE credit_notes (
  number       text PRIMARY KEY CHECK (number ~ '^[A-Za-z0-9/-]{1,16}$'),
  invoice      text NOT NULL REFERENCES invoices,
  refund_id    bigint NOT NULL UNIQUE REFERENCES refunds,
  amount_paise bigint NOT NULL,
  tax_paise    bigint NOT NULL,
  issued_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX credit_notes_invoice_idx ON credit_notes (invoice);
