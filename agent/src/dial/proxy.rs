//! HTTP proxies: `HTTPS_PROXY` and `NO_PROXY`, by CONNECT (RFC 9110 section 9.3.6). What goes through is
//! the same TLS as without.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// An answer to CONNECT is a status line and a few headers.
const MAX_ANSWER: usize = 8 * 1024;

/// Why a proxy did not connect us.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The setting is not an address.
    #[error("{0:?} is not the address of a proxy: write http://host:port")]
    Address(String),
    /// It was cut, or says what HTTP does not know.
    #[error("the proxy does not answer as HTTP")]
    Answer(#[source] std::io::Error),
    /// It refused.
    #[error("the proxy answered {0:?}")]
    Refused(String),
}

/// A proxy to go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// `host:port` of the proxy.
    pub authority: String,
    /// `user:password`, in base64.
    credentials: Option<String>,
}

impl Proxy {
    /// The proxy that the environment names for `host`; `setting` is `HTTPS_PROXY`, `exceptions` is
    /// `NO_PROXY`: a comma-separated list of hosts and domains, or `*`.
    ///
    /// # Errors
    /// [`ProxyError::Address`].
    pub fn for_host(setting: &str, exceptions: &str, host: &str) -> Result<Option<Self>, ProxyError> {
        let is_exception = |entry: &str| {
            let domain = entry.trim().trim_start_matches('.');
            domain == "*"
                || (!domain.is_empty()
                    && (host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))))
        };
        if setting.is_empty() || exceptions.split(',').any(is_exception) {
            return Ok(None);
        }
        let fault = || ProxyError::Address(setting.rsplit('@').next().unwrap_or_default().to_owned());
        let uri: hyper::Uri = setting.parse().map_err(|_| fault())?;
        let authority = uri.authority().filter(|_| uri.scheme_str() != Some("https")).ok_or_else(fault)?;
        let credentials =
            authority.as_str().rsplit_once('@').map(|(credentials, _)| STANDARD.encode(credentials));
        let port = authority.port_u16().unwrap_or(3128);
        Ok(Some(Self { authority: format!("{}:{port}", authority.host()), credentials }))
    }

    /// Asks the proxy behind `stream` for a way to `target` (`host:port`).
    ///
    /// # Errors
    /// [`ProxyError`].
    pub async fn connect<S>(&self, stream: &mut S, target: &str) -> Result<(), ProxyError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let credentials = self
            .credentials
            .as_ref()
            .map_or_else(String::new, |credentials| format!("Proxy-Authorization: Basic {credentials}\r\n"));
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{credentials}\r\n");
        stream.write_all(request.as_bytes()).await.map_err(ProxyError::Answer)?;
        let mut answer = Vec::new();
        // Byte by byte: what follows the empty line belongs to TLS.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() == MAX_ANSWER {
                return Err(ProxyError::Answer(std::io::ErrorKind::InvalidData.into()));
            }
            answer.push(stream.read_u8().await.map_err(ProxyError::Answer)?);
        }
        let text = String::from_utf8_lossy(&answer);
        let status = text.lines().next().unwrap_or_default();
        match status.split(' ').nth(1) {
            Some(code) if code.starts_with('2') => Ok(()),
            _ => Err(ProxyError::Refused(status.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::{Proxy, ProxyError};

    #[test]
    fn exceptions_are_hosts_and_domains() {
        let proxy = |exceptions, host| Proxy::for_host("http://proxy:8080", exceptions, host).unwrap();
        assert_eq!(proxy("", "hub.example").unwrap().authority, "proxy:8080");
        assert_eq!(proxy("localhost, .example", "hub.example"), None);
        assert_eq!(proxy("*", "hub.example"), None);
        assert!(proxy("b.example", "hub.example").is_some());
        assert!(proxy("ample", "hub.example").is_some());
        assert_eq!(Proxy::for_host("", "", "hub").unwrap(), None);
        assert!(matches!(Proxy::for_host("https://x", "", "hub"), Err(ProxyError::Address(_))));
    }

    #[tokio::test]
    async fn a_refusal_is_told_and_credentials_are_sent() {
        let (mut near, mut far) = tokio::io::duplex(1024);
        let proxy = Proxy::for_host("http://u:p@proxy:1", "", "hub").unwrap().unwrap();
        let answer = async {
            let mut request = vec![0; 512];
            let len = far.read(&mut request).await.unwrap();
            far.write_all(b"HTTP/1.1 407 Who are you\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&request[..len]).into_owned()
        };
        let (result, request) = tokio::join!(proxy.connect(&mut near, "hub:443"), answer);
        assert!(request.contains("Proxy-Authorization: Basic dTpw\r\n"), "{request}");
        assert!(matches!(result, Err(ProxyError::Refused(status)) if status.contains("407")));
    }
}
