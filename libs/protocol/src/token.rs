//! The join token: everything that an edge node needs for its first word to the hub (identity rule 1).
//!
//! In: the text behind `selvedge-agent join --token`. Out: [`JoinToken`], and back. The text is `slv1.`
//! and base64url (no padding) of the token's JSON. It holds a secret: [`JoinToken`] never shows its seed.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::proof::JOIN_SEED_LEN;

/// What every token of this format begins with. A later format gets another number.
pub const TOKEN_PREFIX: &str = "slv1.";

/// Why a text is not a join token. Never repeats the text, which is a secret.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not of this format.
    #[error("a join token begins with {TOKEN_PREFIX:?}: copy the whole command from the join Secret")]
    Prefix,
    /// Cut short or changed on the way.
    #[error("the join token is not whole (not base64url): copy it again from the join Secret")]
    Base64,
    /// Decodes, but a part is missing or has another shape.
    #[error("the join token is not whole ({0}): copy it again from the join Secret")]
    Json(String),
    /// A part has a value that cannot work.
    #[error("the join token's {field} {fault}")]
    Field {
        /// Which part.
        field: &'static str,
        /// What is wrong with it.
        fault: &'static str,
    },
}

/// Names cluster, node and hub, pins the CA, and carries the seed of the join key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Cluster id, made with the first CA.
    pub cluster: String,
    /// Name of the EdgeNode.
    pub node: String,
    /// Where hubs are dialled: `https://host:port`, at least one.
    pub hub: Vec<String>,
    /// Lower-case hex SHA-256 of the DER SubjectPublicKeyInfo of the CA certificate.
    pub ca: String,
    /// base64url (no padding) of the 32-byte seed of the Ed25519 join key. Secret.
    seed: String,
}

impl JoinToken {
    /// A token with the join key that `seed` makes.
    #[must_use]
    pub fn new(
        cluster: impl Into<String>,
        node: impl Into<String>,
        hub: Vec<String>,
        ca: impl Into<String>,
        seed: &[u8; JOIN_SEED_LEN],
    ) -> Self {
        let seed = URL_SAFE_NO_PAD.encode(seed);
        Self { cluster: cluster.into(), node: node.into(), hub, ca: ca.into(), seed }
    }

    /// The seed of the join key, for [`crate::proof::sign_join`].
    ///
    /// # Errors
    /// [`TokenError::Field`] when it is not 32 bytes; a token from [`Self::decode`] always has them.
    pub fn seed(&self) -> Result<[u8; JOIN_SEED_LEN], TokenError> {
        const FAULT: TokenError = TokenError::Field { field: "seed", fault: "is not 32 bytes of base64url" };
        URL_SAFE_NO_PAD.decode(&self.seed).map_err(|_| FAULT)?.try_into().map_err(|_| FAULT)
    }

    /// The pin as bytes: SHA-256 of the CA's SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`TokenError::Field`] when it is not 64 lower-case hex digits; never after [`Self::decode`].
    pub fn ca_pin(&self) -> Result<[u8; 32], TokenError> {
        const FAULT: TokenError = TokenError::Field { field: "ca", fault: "is not 64 lower-case hex digits" };
        let mut pin = [0; 32];
        if self.ca.len() != 64 {
            return Err(FAULT);
        }
        for (byte, pair) in pin.iter_mut().zip(self.ca.as_bytes().chunks_exact(2)) {
            *byte = nibble(pair[0]).zip(nibble(pair[1])).map(|(high, low)| high << 4 | low).ok_or(FAULT)?;
        }
        Ok(pin)
    }

    /// The text that people copy.
    #[must_use]
    pub fn encode(&self) -> String {
        // A struct of strings always serialises.
        let json = serde_json::to_vec(self).unwrap_or_default();
        format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }

    /// Reads the text that people copy, with white space around it; every part is checked.
    ///
    /// # Errors
    /// [`TokenError`], without the token's text.
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        let body = text.trim().strip_prefix(TOKEN_PREFIX).ok_or(TokenError::Prefix)?;
        let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Base64)?;
        let token: Self =
            serde_json::from_slice(&json).map_err(|error| TokenError::Json(error.to_string()))?;
        let fault = |field, fault| Err(TokenError::Field { field, fault });
        if token.cluster.is_empty() {
            return fault("cluster", "is empty");
        }
        if token.node.is_empty() {
            return fault("node", "is empty");
        }
        if token.hub.is_empty() || token.hub.iter().any(|hub| !hub.starts_with("https://")) {
            return fault("hub", "does not name https:// addresses");
        }
        token.ca_pin()?;
        token.seed()?;
        Ok(token)
    }
}

/// Without the seed, so that a token in a log line gives nothing away.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .field("hub", &self.hub)
            .field("ca", &self.ca)
            .finish_non_exhaustive()
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::JoinToken;

    fn token() -> JoinToken {
        let hub = vec!["https://hub.example:8443".to_owned()];
        JoinToken::new("c-1", "shop-1", hub, "0f".repeat(32), &[7; 32])
    }

    #[test]
    fn text_and_back() {
        let text = token().encode();
        assert!(text.starts_with("slv1."));
        let back = JoinToken::decode(&format!(" {text}\n")).unwrap();
        assert_eq!(back, token());
        assert_eq!(back.seed().unwrap(), [7; 32]);
        assert_eq!(back.ca_pin().unwrap(), [0x0f; 32]);
    }

    #[test]
    fn the_seed_is_not_shown() {
        let token = token();
        assert!(!format!("{token:?}").contains(&token.seed));
    }

    #[test]
    fn a_broken_token_says_what_is_wrong() {
        let text = token().encode();
        let broken = |token: JoinToken| JoinToken::decode(&token.encode()).unwrap_err().to_string();
        assert!(JoinToken::decode("").unwrap_err().to_string().contains("slv1."));
        assert!(JoinToken::decode(&text[..text.len() - 9]).is_err());
        assert!(broken(JoinToken { ca: "0F".repeat(32), ..token() }).contains("ca is not 64"));
        assert!(broken(JoinToken { seed: "AAAA".into(), ..token() }).contains("seed is not 32"));
        assert!(broken(JoinToken { hub: vec!["http://x".into()], ..token() }).contains("https://"));
        assert!(broken(JoinToken { node: String::new(), ..token() }).contains("node is empty"));
    }
}
