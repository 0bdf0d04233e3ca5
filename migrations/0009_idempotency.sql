-- Answers are kept whole and encrypted, for `idempotent = true`; `idempotent = "steps"` adds the results of its steps and
-- a lease with a fence. What the first form needed beside them goes.
ALTER TABLE idempotency_keys
  ADD COLUMN answer bytea,   -- NULL: not finished. Status, headers and body, sealed with app.secret
  ADD COLUMN steps  bytea,   -- results of the steps that have committed, sealed as well
  DROP COLUMN recovery_point,
  DROP COLUMN order_id,
  DROP COLUMN status,
  DROP COLUMN headers,
  DROP COLUMN body;

COMMENT ON COLUMN idempotency_keys.scope IS 'SHA-256 of method, route and caller';
COMMENT ON COLUMN idempotency_keys.lock_token IS 'the fence of the run that holds the lease until locked_until';

-- The first statement of an idempotent request. It fails, and so stops everything behind it in the same transaction,
-- when another request is at this key (CH409) or an answer is kept (CH200); that is why the handler's own first
-- statements can travel with it. In a function each statement has a snapshot of its own: what is looked up after the
-- lock was taken is what the lock's last holder committed.
CREATE FUNCTION idempotency_claim(a_scope text, a_key text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtextextended(a_scope || ' ' || a_key, 0)) THEN
    RAISE EXCEPTION 'idempotency key in use' USING ERRCODE = 'CH409';
  END IF;
  PERFORM 1 FROM idempotency_keys WHERE scope = a_scope AND key = a_key AND expires_at > now() AND answer IS NOT NULL;
  IF FOUND THEN
    RAISE EXCEPTION 'idempotency key has an answer' USING ERRCODE = 'CH200';
  END IF;
END $$;
