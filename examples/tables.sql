-- The tables that chowk's own services keep, for an application of your own: copy this file into its migrations/ as the
-- first one. Who uses none of jobs, `idempotent`, tx:forget, seq and tx:gapless needs none of it; each part stands alone.
-- The shop here has grown the same tables over its migrations 0003 to 0009, where they are explained.

-- chowk.seq and tx:gapless
CREATE TABLE sequences (
  name   text NOT NULL,
  period text NOT NULL,
  value  bigint NOT NULL,   -- the last number given out
  PRIMARY KEY (name, period)
) WITH (fillfactor = 50);

CREATE FUNCTION get_next_order_sequence(name text, period text, n int DEFAULT 1) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE last bigint;
BEGIN
  IF n IS NULL OR n < 1 THEN
    RAISE EXCEPTION 'get_next_order_sequence: n must be at least 1, got %', n USING ERRCODE = '22023';
  END IF;
  INSERT INTO sequences AS s (name, period, value) VALUES ($1, $2, $3)
  ON CONFLICT ON CONSTRAINT sequences_pkey DO UPDATE SET value = s.value + $3
  RETURNING s.value INTO last;
  RETURN last;
END
$$;

-- Routes with `idempotent`
CREATE TABLE idempotency_keys (
  scope        text NOT NULL,    -- SHA-256 of method, route and caller
  key          text NOT NULL CHECK (char_length(key) BETWEEN 1 AND 255),
  fingerprint  bytea NOT NULL,   -- SHA-256 of method, path and body
  method       text NOT NULL,
  path         text NOT NULL,
  locked_until timestamptz,
  lock_token   uuid,             -- the fence of the run that holds the lease until locked_until
  created_at   timestamptz NOT NULL DEFAULT now(),
  last_run_at  timestamptz NOT NULL DEFAULT now(),
  expires_at   timestamptz NOT NULL DEFAULT now() + interval '24 hours',
  answer       bytea,            -- NULL: not finished. Status, headers and body, sealed with app.secret
  steps        bytea,            -- results of the steps that have committed, sealed as well
  PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_keys_expiry_idx ON idempotency_keys (expires_at);

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

-- tx:forget
CREATE TABLE cache_forget (
  id   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  keys text[] NOT NULL DEFAULT '{}',
  tags text[] NOT NULL DEFAULT '{}',
  at   timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0.01);

-- chowk.jobs
CREATE TYPE job_state AS ENUM
  ('available', 'scheduled', 'running', 'retryable', 'completed', 'discarded', 'cancelled');

CREATE TABLE jobs (
  id           bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  state        job_state NOT NULL DEFAULT 'available',
  queue        text NOT NULL DEFAULT 'default',
  kind         text NOT NULL,
  args         jsonb NOT NULL DEFAULT '{}',
  priority     smallint NOT NULL DEFAULT 2 CHECK (priority BETWEEN 1 AND 4),
  attempt      int NOT NULL DEFAULT 0,   -- counts every run, and is the fence
  max_attempts int NOT NULL DEFAULT 25 CHECK (max_attempts > 0),
  run_at       timestamptz NOT NULL DEFAULT now(),
  attempted_at timestamptz,
  attempted_by text,
  lease_until  timestamptz,
  finalized_at timestamptz,
  errors       jsonb NOT NULL DEFAULT '[]',
  unique_key   text,
  created_at   timestamptz NOT NULL DEFAULT now(),
  parked       int NOT NULL DEFAULT 0
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01);
CREATE INDEX jobs_fetch_idx ON jobs (queue, priority, run_at, id) WHERE state IN ('available', 'scheduled', 'retryable');
CREATE INDEX jobs_lease_idx ON jobs (lease_until) WHERE state = 'running';
CREATE INDEX jobs_running_idx ON jobs (kind) WHERE state = 'running';
CREATE INDEX jobs_final_idx ON jobs (state, finalized_at) WHERE finalized_at IS NOT NULL;
CREATE UNIQUE INDEX jobs_unique_idx ON jobs (kind, unique_key)
  WHERE unique_key IS NOT NULL AND state IN ('available', 'scheduled', 'running', 'retryable');

CREATE TABLE cron_runs (
  name text NOT NULL,
  slot timestamptz NOT NULL,
  PRIMARY KEY (name, slot)
);

CREATE FUNCTION job_fence(job_id bigint, worker text, run int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM jobs WHERE id = job_id AND state = 'running' AND attempted_by = worker AND attempt = run FOR SHARE;
  IF NOT FOUND THEN
    RAISE 'job % is no longer ours: its lease was lost', job_id USING ERRCODE = 'CHJ01';
  END IF;
END $$;

CREATE FUNCTION job_complete(job_id bigint, worker text, run int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE jobs SET state = 'completed', finalized_at = now(), lease_until = NULL
  WHERE id = job_id AND state = 'running' AND attempted_by = worker AND attempt = run;
  IF NOT FOUND THEN
    RAISE 'job % is no longer ours: its lease was lost', job_id USING ERRCODE = 'CHJ01';
  END IF;
END $$;
