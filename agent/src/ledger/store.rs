//! The ledger on disk: SQLite in WAL mode with `synchronous=FULL`, so that a commit that returned
//! outlives a power cut. One connection, owned by the ledger's thread, which locks the file: two agents
//! never share a state directory. Bodies of Secrets are sealed with a key in a file beside it.
//!
//! In: batches of the machine and of the report book. Out: rows, bodies, reports.

use std::{borrow::Cow, path::Path};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row as SqlRow, Transaction, params};
use selvedge_model::{ContentHash, Digest, Watermark};
use selvedge_protocol::agent as wire;

use super::file::KEY_FILE;
use super::row::{
    Answered, Batch, BodyChange, Loaded, Meta, Refusal, Row, RowChange, RowKey, Slot, Store, StoreError,
    Version,
};
use super::seal::{Seal, SealError};

const SCHEMA_VERSION: i64 = 1;

/// A ledger in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    connection: Connection,
    seal: Seal,
}

impl SqliteStore {
    /// Opens the file, makes it when it is not there, checks it and brings its schema up to date. The key for
    /// Secrets is in [`KEY_FILE`] beside it.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the file is not a whole ledger of this or an older version;
    /// [`StoreError::Unwritable`] when another process holds it or the disk refuses.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut connection = Connection::open(path)?;
        // EXCLUSIVE before WAL: no shared-memory file, and a second agent is refused. Little cache: the
        // rows are in the machine's memory, bodies are read once.
        connection.execute_batch(
            "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
             PRAGMA cache_size=-256; PRAGMA wal_autocheckpoint=256; PRAGMA temp_store=MEMORY;",
        )?;
        let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if check != "ok" {
            return Err(StoreError::Damaged(check));
        }
        migrate(&mut connection)?;
        Ok(Self { connection, seal: Seal::load(&path.with_file_name(KEY_FILE))? })
    }

    /// The connection, for tests alone: one turns syncing off through it, to show what that would lose.
    #[doc(hidden)]
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The reports that wait for a verdict.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    pub fn reports(&mut self) -> Result<Vec<wire::EntryReport>, StoreError> {
        let mut statement = self.connection.prepare("SELECT body FROM reports")?;
        let bodies = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        bodies
            .map(|body| {
                selvedge_protocol::decode(body?.into())
                    .map_err(|error| StoreError::Damaged(error.to_string()))
            })
            .collect()
    }

    /// Replaces reports: `Some` waits for its verdict, `None` has it.
    ///
    /// # Errors
    /// [`StoreError`], and nothing is changed.
    pub fn save_reports(
        &mut self,
        reports: &[(RowKey, Option<wire::EntryReport>)],
    ) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        for (key, report) in reports {
            match report {
                Some(report) => transaction
                    .prepare_cached("INSERT OR REPLACE INTO reports VALUES (?, ?, ?, ?, ?)")?
                    .execute(params![
                        key.kind,
                        key.namespace,
                        key.name,
                        key.version,
                        selvedge_protocol::encode(report).as_ref()
                    ])?,
                None => transaction
                    .prepare_cached(
                        "DELETE FROM reports WHERE kind=? AND namespace=? AND name=? AND version=?",
                    )?
                    .execute(params![key.kind, key.namespace, key.name, key.version])?,
            };
        }
        Ok(transaction.commit()?)
    }
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match version {
        SCHEMA_VERSION => Ok(()),
        0 => {
            let transaction = connection.transaction()?;
            transaction.execute_batch(include_str!("schema.sql"))?;
            write_meta(&transaction, &Meta::default())?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            Ok(transaction.commit()?)
        }
        newer => Err(StoreError::Damaged(format!(
            "its schema is {newer}, this agent knows up to {SCHEMA_VERSION}: a newer agent made it"
        ))),
    }
}

impl Store for SqliteStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let meta = self.connection.query_row("SELECT * FROM meta WHERE id = 1", [], read_meta)?;
        let mut statement = self.connection.prepare("SELECT * FROM rows")?;
        let rows = statement.query_map([], read_row)?.collect::<Result<_, _>>()?;
        Ok(Loaded { meta, rows })
    }

    fn body(&mut self, key: &RowKey, slot: Slot) -> Result<Option<Bytes>, StoreError> {
        let mut statement = self.connection.prepare_cached(match slot {
            Slot::InForce => {
                "SELECT in_force_body FROM rows WHERE kind=? AND namespace=? AND name=? AND version=?"
            }
            Slot::Pending => {
                "SELECT pending_body FROM rows WHERE kind=? AND namespace=? AND name=? AND version=?"
            }
        })?;
        let body: Option<Option<Vec<u8>>> = statement
            .query_row(params![key.kind, key.namespace, key.name, key.version], |row| row.get(0))
            .optional()?;
        let body = body.flatten().map(Bytes::from);
        Ok(if Seal::covers(key) { body.and_then(|sealed| self.seal.open(key, &sealed)) } else { body })
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        if let Some(meta) = &batch.meta {
            write_meta(&transaction, meta)?;
        }
        for (key, change) in &batch.rows {
            match change {
                Some(change) => write_row(&transaction, &self.seal, key, change)?,
                None => {
                    transaction
                        .prepare_cached(
                            "DELETE FROM rows WHERE kind=? AND namespace=? AND name=? AND version=?",
                        )?
                        .execute(params![key.kind, key.namespace, key.name, key.version])?;
                }
            }
        }
        Ok(transaction.commit()?)
    }
}

// SQLite's integers are signed: 64-bit numbers keep their bits.

fn write_meta(transaction: &Transaction<'_>, meta: &Meta) -> Result<(), StoreError> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO meta VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?
        .execute(params![
            meta.watermark.cluster_id,
            meta.watermark.epoch.cast_signed(),
            json(&meta.watermark.revisions)?,
            meta.digest.to_bytes(),
            meta.session_counter.cast_signed(),
            meta.agent_version,
            meta.latest_time.cast_signed(),
            meta.complete,
            meta.stopped,
            meta.boots.cast_signed(),
        ])?;
    Ok(())
}

fn read_meta(row: &SqlRow<'_>) -> rusqlite::Result<Meta> {
    let unsigned = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    Ok(Meta {
        watermark: Watermark {
            cluster_id: row.get("cluster_id")?,
            epoch: unsigned("epoch")?,
            revisions: from_json(&row.get::<_, String>("revisions")?)?,
        },
        digest: Digest::from_bytes(row.get("digest")?),
        session_counter: unsigned("session_counter")?,
        agent_version: row.get("agent_version")?,
        latest_time: unsigned("latest_time")?,
        complete: row.get("complete")?,
        stopped: row.get("stopped")?,
        boots: unsigned("boots")?,
    })
}

fn write_row(
    transaction: &Transaction<'_>,
    seal: &Seal,
    key: &RowKey,
    change: &RowChange,
) -> Result<(), StoreError> {
    let row = &change.row;
    let answered = row.answered.as_ref().map(|answered| &answered.version);
    let refused = row.answered.as_ref().and_then(|answered| answered.refused.as_ref());
    let in_force = row.in_force.as_ref();
    let references = |version: Option<&Version>| version.map(|version| json(&version.references)).transpose();
    transaction
        .prepare_cached(
            "INSERT INTO rows (kind, namespace, name, version,
               answered_uid, answered_hash, answered_source_revision, answered_revision, answered_references,
               refused_reason, refused_message, pending,
               in_force_uid, in_force_hash, in_force_source_revision, in_force_revision, in_force_references)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT DO UPDATE SET
               answered_uid=excluded.answered_uid, answered_hash=excluded.answered_hash,
               answered_source_revision=excluded.answered_source_revision,
               answered_revision=excluded.answered_revision, answered_references=excluded.answered_references,
               refused_reason=excluded.refused_reason, refused_message=excluded.refused_message,
               pending=excluded.pending,
               in_force_uid=excluded.in_force_uid, in_force_hash=excluded.in_force_hash,
               in_force_source_revision=excluded.in_force_source_revision,
               in_force_revision=excluded.in_force_revision, in_force_references=excluded.in_force_references",
        )?
        .execute(params![
            key.kind,
            key.namespace,
            key.name,
            key.version,
            answered.map(|version| &version.uid),
            answered.map(|version| version.hash.0),
            answered.map(|version| version.source_revision.cast_signed()),
            answered.map(|version| &version.revision),
            references(answered)?,
            refused.map(|refused| &refused.reason),
            refused.map(|refused| &refused.message),
            row.pending,
            in_force.map(|version| &version.uid),
            in_force.map(|version| version.hash.0),
            in_force.map(|version| version.source_revision.cast_signed()),
            in_force.map(|version| &version.revision),
            references(in_force)?,
        ])?;
    write_body(transaction, seal, key, "in_force_body", &change.in_force)?;
    write_body(transaction, seal, key, "pending_body", &change.pending)
}

fn write_body(
    transaction: &Transaction<'_>,
    seal: &Seal,
    key: &RowKey,
    column: &str,
    change: &BodyChange,
) -> Result<(), StoreError> {
    let (value, body) = match change {
        BodyChange::Keep => return Ok(()),
        BodyChange::Set(body) if Seal::covers(key) => ("?5", Some(Cow::from(seal.seal(key, body)?))),
        BodyChange::Set(body) => ("?5", Some(Cow::from(body.as_ref()))),
        BodyChange::TakePending => ("coalesce(?5, pending_body)", None),
        BodyChange::Clear => ("?5", None),
    };
    let sql = format!(
        "UPDATE rows SET {column} = {value} WHERE kind=?1 AND namespace=?2 AND name=?3 AND version=?4"
    );
    transaction.prepare_cached(&sql)?.execute(params![
        key.kind,
        key.namespace,
        key.name,
        key.version,
        body
    ])?;
    Ok(())
}

fn read_row(row: &SqlRow<'_>) -> rusqlite::Result<(RowKey, Row)> {
    let key = RowKey {
        kind: row.get("kind")?,
        namespace: row.get("namespace")?,
        name: row.get("name")?,
        version: row.get("version")?,
    };
    let version = |prefix: &str| -> rusqlite::Result<Option<Version>> {
        let column = |name: &str| format!("{prefix}_{name}");
        let Some(uid) = row.get::<_, Option<String>>(&*column("uid"))? else { return Ok(None) };
        Ok(Some(Version {
            uid,
            hash: ContentHash(row.get(&*column("hash"))?),
            source_revision: row.get::<_, i64>(&*column("source_revision"))?.cast_unsigned(),
            revision: row.get(&*column("revision"))?,
            references: from_json(&row.get::<_, String>(&*column("references"))?)?,
        }))
    };
    let reason: Option<String> = row.get("refused_reason")?;
    let message: Option<String> = row.get("refused_message")?;
    let refused = reason.zip(message).map(|(reason, message)| Refusal { reason, message });
    let answered = version("answered")?.map(|version| Answered { version, refused });
    Ok((key, Row { answered, in_force: version("in_force")?, pending: row.get("pending")? }))
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Damaged(error.to_string()))
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })
}

impl From<SealError> for StoreError {
    fn from(error: SealError) -> Self {
        Self::Unwritable(error.to_string())
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::Unwritable("another process holds it: is another agent running?".into())
            }
            Some(
                ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::OutOfMemory,
            ) => Self::Unwritable(error.to_string()),
            _ => Self::Damaged(error.to_string()),
        }
    }
}
