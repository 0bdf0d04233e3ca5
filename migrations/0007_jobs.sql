-- What the queue of 0005 lacked: a fence that never repeats, and functions that check it inside a transaction.
--
-- attempt counts every run and is the fence. A run that parks itself (job:again), or is handed back by a process that
-- stops, was no failure: it counts as parked. attempt - parked is what max_attempts is compared with.
ALTER TABLE jobs
  ALTER COLUMN attempt TYPE int,
  ALTER COLUMN max_attempts TYPE int,
  ADD COLUMN parked int NOT NULL DEFAULT 0;

CREATE INDEX jobs_running_idx ON jobs (kind) WHERE state = 'running';   -- concurrency caps count these

-- Refuses the commit of a run that has lost its lease. FOR SHARE: until the commit nobody can take the job over.
CREATE FUNCTION job_fence(job_id bigint, worker text, run int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM jobs WHERE id = job_id AND state = 'running' AND attempted_by = worker AND attempt = run FOR SHARE;
  IF NOT FOUND THEN
    RAISE 'job % is no longer ours: its lease was lost', job_id USING ERRCODE = 'CHJ01';
  END IF;
END $$;

-- The same, and the job is done: with what this transaction wrote, or not at all.
CREATE FUNCTION job_complete(job_id bigint, worker text, run int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE jobs SET state = 'completed', finalized_at = now(), lease_until = NULL
  WHERE id = job_id AND state = 'running' AND attempted_by = worker AND attempt = run;
  IF NOT FOUND THEN
    RAISE 'job % is no longer ours: its lease was lost', job_id USING ERRCODE = 'CHJ01';
  END IF;
END $$;
