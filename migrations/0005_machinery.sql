-- What the server keeps for itself: answers already given, and work still to do.

-- Idempotency-Key records. The whole request is one transaction, so a row that can be seen is finished.
-- lock_token, locked_until and recovery_point serve requests of several steps.
CREATE TABLE idempotency_keys (
  scope          text NOT NULL,   -- user id or hashed guest e-mail, with the route
  key            text NOT NULL CHECK (char_length(key) BETWEEN 1 AND 255),
  fingerprint    bytea NOT NULL,  -- SHA-256 of method, path and body
  method         text NOT NULL,
  path           text NOT NULL,
  recovery_point text NOT NULL DEFAULT 'started',
  locked_until   timestamptz,
  lock_token     uuid,
  order_id       uuid REFERENCES orders ON DELETE CASCADE,
  status         smallint,
  headers        jsonb,
  body           bytea,
  created_at     timestamptz NOT NULL DEFAULT now(),
  last_run_at    timestamptz NOT NULL DEFAULT now(),
  expires_at     timestamptz NOT NULL DEFAULT now() + interval '24 hours',
  PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_keys_expiry_idx ON idempotency_keys (expires_at);
CREATE INDEX idempotency_keys_order_idx  ON idempotency_keys (order_id);

CREATE TYPE job_state AS ENUM
  ('available', 'scheduled', 'running', 'retryable', 'completed', 'discarded', 'cancelled');

CREATE TABLE jobs (
  id           bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  state        job_state NOT NULL DEFAULT 'available',
  queue        text NOT NULL DEFAULT 'default',
  kind         text NOT NULL,
  args         jsonb NOT NULL DEFAULT '{}',
  priority     smallint NOT NULL DEFAULT 2 CHECK (priority BETWEEN 1 AND 4),
  attempt      smallint NOT NULL DEFAULT 0,   -- with attempted_by the fence: a late finisher's update finds no row
  max_attempts smallint NOT NULL DEFAULT 25 CHECK (max_attempts > 0),
  run_at       timestamptz NOT NULL DEFAULT now(),
  attempted_at timestamptz,
  attempted_by text,
  lease_until  timestamptz,
  finalized_at timestamptz,
  errors       jsonb NOT NULL DEFAULT '[]',
  unique_key   text,
  created_at   timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01);   -- rows live for seconds and change three times
CREATE INDEX jobs_fetch_idx ON jobs (queue, priority, run_at, id) WHERE state IN ('available', 'scheduled', 'retryable');
CREATE INDEX jobs_lease_idx ON jobs (lease_until) WHERE state = 'running';
CREATE INDEX jobs_final_idx ON jobs (state, finalized_at) WHERE finalized_at IS NOT NULL;
CREATE UNIQUE INDEX jobs_unique_idx ON jobs (kind, unique_key)
  WHERE unique_key IS NOT NULL AND state IN ('available', 'scheduled', 'running', 'retryable');

-- INSERT … ON CONFLICT DO NOTHING RETURNING: whoever gets the row enqueues that slot.
CREATE TABLE cron_runs (
  name text NOT NULL,
  slot timestamptz NOT NULL,
  PRIMARY KEY (name, slot)
);
