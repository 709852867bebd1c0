//! The identity of one session of an agent (sync rule 9).

use std::fmt;

/// Ordered by counter, then nonce. The agent persists the counter; the nonce tells two machines apart
/// that hold copies of one ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SessionId {
    /// Rises with every session of an agent.
    pub counter: u64,
    /// Random for each session.
    pub nonce: u64,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.counter, self.nonce)
    }
}

impl std::str::FromStr for SessionId {
    type Err = ParseSessionError;

    fn from_str(text: &str) -> Result<Self, ParseSessionError> {
        let (counter, nonce) = text.split_once('.').ok_or(ParseSessionError)?;
        Ok(Self {
            counter: counter.parse().map_err(|_| ParseSessionError)?,
            nonce: u64::from_str_radix(nonce, 16).map_err(|_| ParseSessionError)?,
        })
    }
}

/// The text is not `<counter>.<nonce in hex>`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session is written as <counter>.<nonce in hex>")]
pub struct ParseSessionError;

#[cfg(test)]
mod tests {
    use super::SessionId;

    #[test]
    fn text_and_back() {
        let session = SessionId { counter: 12, nonce: 0xab };
        assert_eq!(session.to_string(), "12.00000000000000ab");
        assert_eq!(session.to_string().parse(), Ok(session));
        assert!("12".parse::<SessionId>().is_err());
    }
}
