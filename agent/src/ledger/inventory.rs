//! Answers to `Compare`: what this node has answered, by rows or by buckets (sync rule 5).

use selvedge_model::Digest;
use selvedge_protocol::{
    MAX_ROWS_AT_ONCE,
    agent::{self as wire, to_hub::Message as ToHub},
};

use super::row::{Answered, RowKey};

/// Rows of one frame: about 150 bytes each, so that a frame stays near 40 KB.
const ROWS_A_FRAME: usize = 256;

/// The frames that answer a question: the rows of `buckets`, or, when none is named, all rows of a small
/// set and the 256 bucket digests of a large one. The last frame says so.
pub fn answer<'a, I>(buckets: &[u32], answered: impl Fn() -> I) -> Vec<ToHub>
where
    I: Iterator<Item = (&'a RowKey, &'a Answered)>,
{
    if buckets.is_empty() && answered().nth(MAX_ROWS_AT_ONCE).is_some() {
        let mut digests = vec![Digest::EMPTY; 256];
        for (key, row) in answered() {
            let digest = &mut digests[usize::from(key.bucket())];
            *digest = digest.plus(row.row_hash(key));
        }
        let buckets = digests.into_iter().map(|digest| digest.to_bytes().to_vec()).collect();
        return vec![ToHub::Inventory(wire::Inventory { buckets, rows: Vec::new(), last: true })];
    }
    let asked = |key: &RowKey| buckets.is_empty() || buckets.contains(&key.bucket().into());
    let rows: Vec<wire::Row> =
        answered().filter(|(key, _)| asked(key)).map(|(key, answered)| row(key, answered)).collect();
    let mut frames: Vec<wire::Inventory> = rows
        .chunks(ROWS_A_FRAME)
        .map(|rows| wire::Inventory { rows: rows.to_vec(), ..wire::Inventory::default() })
        .collect();
    match frames.last_mut() {
        Some(frame) => frame.last = true,
        None => frames.push(wire::Inventory { last: true, ..wire::Inventory::default() }),
    }
    frames.into_iter().map(ToHub::Inventory).collect()
}

fn row(key: &RowKey, answered: &Answered) -> wire::Row {
    let version = &answered.version;
    wire::Row {
        key: Some(key.into()),
        uid: version.uid.clone(),
        content_hash: version.hash.0.to_vec(),
        source_revision: version.source_revision,
        revision: version.revision.clone(),
    }
}
