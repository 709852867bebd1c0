//! With what the hub closed a session, what that means, and what to do: docs/reference/protocol-errors.md.
//!
//! In: the close frame. Out: text for status and log. Pure.

use std::fmt;

use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// Code and reason of a close frame (RFC 6455, section 7.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The code.
    pub code: u16,
    /// One word of the hub, or of who stands between.
    pub reason: String,
}

impl Closing {
    /// What a close frame says; none: nothing, as when a hub goes in peace.
    #[must_use]
    pub fn of(frame: Option<CloseFrame>) -> Option<Self> {
        frame.map(|frame| Self { code: frame.code.into(), reason: frame.reason.as_str().to_owned() })
    }

    /// What it means and what to do about it; none: the hub blames nothing on this agent.
    #[must_use]
    pub fn advice(&self) -> Option<(&'static str, &'static str)> {
        const BETWEEN: &str = "see whether a proxy on the way changes what it carries";
        const VERSIONS: &str =
            "compare `selvedge-agent --version` with the hub's: they may be one release apart";
        match self.code {
            1002 => Some((
                "the hub got a message out of its order, or bytes that are no WebSocket frame",
                BETWEEN,
            )),
            1003 => Some(("the hub got text, and takes binary messages only", BETWEEN)),
            1007 => Some(("the hub got a message that it cannot read", VERSIONS)),
            1009 => Some(("the hub got a message that is larger than it takes", VERSIONS)),
            _ => None,
        }
    }
}

impl fmt::Display for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, " {}", self.reason) }
    }
}

/// What was said in the log: the same fault at every dial is one line.
#[derive(Debug, Default)]
pub struct Told(Option<Closing>);

impl Told {
    /// Whether this end of a session is to be explained: it is of the agent's making, and not as the one before.
    pub fn is_news(&mut self, closing: Option<&Closing>) -> bool {
        let news = self.0.as_ref() != closing;
        self.0 = closing.cloned();
        news && closing.is_some_and(|closing| closing.advice().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::{Closing, Told};

    fn closing(code: u16, reason: &str) -> Closing {
        Closing { code, reason: reason.into() }
    }

    #[test]
    fn the_same_end_is_explained_once_and_another_anew() {
        let (large, bad) = (closing(1009, "oversized_frame"), closing(1007, "malformed_frame"));
        let mut told = Told::default();
        assert!(told.is_news(Some(&large)));
        assert!(!told.is_news(Some(&large)));
        assert!(told.is_news(Some(&bad)));
        assert!(!told.is_news(None));
        assert!(told.is_news(Some(&bad)), "it went well in between");
        assert!(!told.is_news(Some(&closing(1001, ""))), "the hub goes away: nobody's fault");
        assert_eq!(
            (large.to_string(), closing(1001, "").to_string()),
            ("1009 oversized_frame".into(), "1001".into())
        );
    }

    /// The page says with which codes a hub ends a session for what it was sent: each has its advice.
    #[test]
    fn every_close_code_of_the_reference_has_its_advice() {
        let page = include_str!("../../../docs/reference/protocol-errors.md");
        let codes: Vec<u16> = page
            .lines()
            .filter_map(|line| line.split("| close ").nth(1)?.split(' ').next()?.parse().ok())
            .collect();
        assert!(codes.len() > 5, "{codes:?}");
        assert!(codes.iter().all(|code| closing(*code, "").advice().is_some()), "{codes:?}");
    }
}
