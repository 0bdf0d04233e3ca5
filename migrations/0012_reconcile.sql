-- When Razorpay is next asked what became of an order's payments, and of a refund.
ALTER TABLE orders ADD COLUMN payment_check_at timestamptz;   -- NULL: never asked yet
ALTER TABLE refunds ADD COLUMN check_at timestamptz NOT NULL DEFAULT now() + interval '15 minutes';
