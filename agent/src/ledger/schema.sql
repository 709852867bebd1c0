-- Schema 1 of ledger.db. A change gets a number of its own and a step in `store::migrate`.
-- References are JSON: [{"kind":2,"namespace":"shop","name":"menu","version":"<hash>"}].

CREATE TABLE meta (
  id              INTEGER PRIMARY KEY CHECK (id = 1),
  cluster_id      TEXT    NOT NULL,
  epoch           INTEGER NOT NULL,
  revisions       TEXT    NOT NULL,   -- JSON: API resource -> revision
  digest          BLOB    NOT NULL,
  session_counter INTEGER NOT NULL,
  agent_version   TEXT    NOT NULL,
  latest_time     INTEGER NOT NULL,   -- Unix seconds
  complete        INTEGER NOT NULL,
  stopped         INTEGER NOT NULL,
  boots           INTEGER NOT NULL
);

CREATE TABLE rows (
  kind      INTEGER NOT NULL,
  namespace TEXT    NOT NULL,
  name      TEXT    NOT NULL,
  version   TEXT    NOT NULL,

  answered_uid             TEXT,      -- NULL: removed by the hub, still named by a workload in force
  answered_hash            BLOB,
  answered_source_revision INTEGER,
  answered_revision        TEXT,
  answered_references      TEXT,
  refused_reason           TEXT,
  refused_message          TEXT,
  pending                  INTEGER NOT NULL,

  in_force_uid             TEXT,
  in_force_hash            BLOB,
  in_force_source_revision INTEGER,
  in_force_revision        TEXT,
  in_force_references      TEXT,

  in_force_body            BLOB,
  pending_body             BLOB,
  PRIMARY KEY (kind, namespace, name, version)
);

CREATE TABLE reports (
  kind      INTEGER NOT NULL,
  namespace TEXT    NOT NULL,
  name      TEXT    NOT NULL,
  version   TEXT    NOT NULL,
  body      BLOB    NOT NULL,         -- an EntryReport of agent.proto
  PRIMARY KEY (kind, namespace, name, version)
);
