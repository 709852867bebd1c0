//! What a driver of a protocol can do. Everything else (schedules, writes, deadlines, panics, reports)
//! is [`super::task`]'s, and the same for all.

use std::future::Future;

use super::value::Value;

/// The connection cannot be used any more; every call after it needs a new one.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// Nobody is there.
    #[error("{0}")]
    Unreachable(String),
    /// It does not answer.
    #[error("{0}")]
    Timeout(String),
    /// It was there and went away.
    #[error("{0}")]
    ConnectionLost(String),
    /// It answers with what is no answer.
    #[error("{0}")]
    ProtocolError(String),
}

impl Broken {
    /// CamelCase, as it stands in the status.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "Unreachable",
            Self::Timeout(_) => "Timeout",
            Self::ConnectionLost(_) => "ConnectionLost",
            Self::ProtocolError(_) => "ProtocolError",
        }
    }
}

/// What came of one property; an error leaves the others as they are.
pub(super) type Outcome<T> = Result<T, String>;

/// A connection to one device. Properties are named by their place in the entry.
///
/// A call that its caller drops halfway leaves the connection in no known state: the caller connects
/// anew then.
pub(super) trait Driver: Send {
    /// Makes a connection, in place of the one before.
    fn connect(&mut self) -> impl Future<Output = Result<(), Broken>> + Send;
    /// Why this property cannot be read (or, when `write`, be written) at all; none: it can.
    fn unfit(&self, property: usize, write: bool) -> Option<String>;
    /// What the property will show after this was written; an error: it cannot be written.
    fn stored(&self, property: usize, value: &Value) -> Outcome<Value>;
    /// Reads these properties.
    fn read(
        &mut self,
        properties: &[usize],
    ) -> impl Future<Output = Result<Vec<(usize, Outcome<Value>)>, Broken>> + Send;
    /// Writes one property.
    fn write(
        &mut self,
        property: usize,
        value: &Value,
    ) -> impl Future<Output = Result<Outcome<()>, Broken>> + Send;
}
