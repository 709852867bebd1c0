//! HTTP proxies: `HTTPS_PROXY` and `NO_PROXY`, by CONNECT (RFC 9110 section 9.3.6). What goes through is
//! the same TLS as without.

use std::{fmt, net::IpAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// An answer to CONNECT is a status line and a few headers.
const MAX_ANSWER: usize = 8 * 1024;

/// Why a proxy did not connect us. Names no credentials.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The setting is not an address.
    #[error("HTTPS_PROXY names {0:?}, which is not the address of a proxy: write http://host:port")]
    Address(String),
    /// The setting is the address of something else than an HTTP proxy.
    #[error(
        "HTTPS_PROXY names a proxy to be spoken to by {0}, only http is known: write http://host:port; what \
         goes through it is TLS all the same"
    )]
    Scheme(String),
    /// It was cut, or says what HTTP does not know.
    #[error("the proxy does not answer as HTTP")]
    Answer(#[source] std::io::Error),
    /// It does not know us.
    #[error(
        "the proxy answered {0:?}: write user and password into HTTPS_PROXY as http://user:password@host:port"
    )]
    Unauthorized(String),
    /// It refused.
    #[error("the proxy answered {0:?}")]
    Refused(String),
}

/// What the environment says about proxies.
#[derive(Clone, Default)]
pub struct ProxySettings {
    /// `HTTPS_PROXY`; may hold a password.
    proxy: String,
    /// `NO_PROXY`.
    exceptions: String,
}

/// A proxy to go through.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// `host:port` of the proxy.
    pub authority: String,
    /// `user:password`, in base64.
    credentials: Option<String>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its credentials must never reach a log.
        f.debug_struct("Proxy").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl ProxySettings {
    /// `proxy` is an address of a proxy, `http://[user:password@]host[:port]`, or empty; `exceptions` is
    /// a comma-separated list of hosts, domains, addresses and networks (`10.0.0.0/8`), or `*`.
    #[must_use]
    pub fn new(proxy: &str, exceptions: &str) -> Self {
        Self { proxy: proxy.to_owned(), exceptions: exceptions.to_owned() }
    }

    /// Those of this process: `HTTPS_PROXY` and `NO_PROXY`, or the same in lower case.
    #[must_use]
    pub fn from_env() -> Self {
        let variable = |upper: &str| {
            std::env::var(upper).or_else(|_| std::env::var(upper.to_lowercase())).unwrap_or_default()
        };
        Self { proxy: variable("HTTPS_PROXY"), exceptions: variable("NO_PROXY") }
    }

    /// The proxy on the way to `host`.
    ///
    /// # Errors
    /// [`ProxyError::Address`] and [`ProxyError::Scheme`].
    pub fn proxy_for(&self, host: &str) -> Result<Option<Proxy>, ProxyError> {
        if self.proxy.is_empty() || self.exceptions.split(',').any(|entry| covers(entry.trim(), host)) {
            return Ok(None);
        }
        let fault = || ProxyError::Address(self.proxy.rsplit('@').next().unwrap_or_default().to_owned());
        let uri: hyper::Uri = self.proxy.parse().map_err(|_| fault())?;
        match uri.scheme_str() {
            None | Some("http") => {}
            Some(other) => return Err(ProxyError::Scheme(other.to_owned())),
        }
        let authority = uri.authority().ok_or_else(fault)?;
        let credentials = authority.as_str().rsplit_once('@').map(|(userinfo, _)| basic(userinfo));
        let port = authority.port_u16().unwrap_or(3128);
        Ok(Some(Proxy { authority: format!("{}:{port}", authority.host()), credentials }))
    }
}

/// Whether an entry of `NO_PROXY` is about `host`.
fn covers(entry: &str, host: &str) -> bool {
    if let Ok(address) = host.parse() {
        return entry == "*" || is_in(entry, address);
    }
    let domain = entry.trim_start_matches('*').trim_start_matches('.').to_ascii_lowercase();
    let host = host.to_ascii_lowercase();
    entry == "*"
        || (!domain.is_empty()
            && (host == domain || host.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'))))
}

/// Whether an address is `network`, or in it.
fn is_in(network: &str, address: IpAddr) -> bool {
    let Some((base, bits)) = network.split_once('/') else { return network.parse() == Ok(address) };
    let (Ok(base), Ok(bits)) = (base.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    let (width, difference) = match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => (32, u128::from(base.to_bits() ^ address.to_bits())),
        (IpAddr::V6(base), IpAddr::V6(address)) => (128, base.to_bits() ^ address.to_bits()),
        _ => return false,
    };
    bits <= width && difference.checked_shr(width - bits).unwrap_or(0) == 0
}

/// Userinfo of an address as Basic credentials (RFC 7617): in the address, what is special there is
/// written `%40`.
fn basic(userinfo: &str) -> String {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    STANDARD.encode([&decoded(user), &b":"[..], &decoded(password)].concat())
}

fn decoded(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let byte = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(b'%'));
        bytes.extend(part.bytes().skip(if byte.is_some() { 2 } else { 0 }));
    }
    bytes
}

impl Proxy {
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
            Some("407") => Err(ProxyError::Unauthorized(status.to_owned())),
            _ => Err(ProxyError::Refused(status.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Proxy, ProxyError, ProxySettings};

    fn proxy(proxy: &str, exceptions: &str, host: &str) -> Result<Option<Proxy>, ProxyError> {
        ProxySettings::new(proxy, exceptions).proxy_for(host)
    }

    #[test]
    fn exceptions_are_hosts_domains_addresses_and_networks() {
        let through = |exceptions, host| proxy("http://proxy:8080", exceptions, host).unwrap().is_some();
        assert!(through("", "hub.example"));
        assert!(through("b.example, ample", "hub.example"));
        assert!(!through("localhost, .example", "hub.example"));
        assert!(!through("*.Example", "HUB.example"));
        assert!(!through("*", "hub.example") && !through("*", "10.1.2.3"));
        assert!(!through("10.0.0.0/8", "10.1.2.3") && through("10.0.0.0/8", "11.1.2.3"));
        assert!(!through("10.1.2.3", "10.1.2.3") && through("2.3", "10.1.2.3"));
        assert!(!through("fd00::/8", "fd12::1") && through("fd00::/8", "fe80::1"));
        assert!(!through("0.0.0.0/0", "192.0.2.1") && through("0.0.0.0/0", "fd00::1"));
        assert!(through("10.0.0.0/33, 10.0.0.0/x", "10.0.0.0"));
    }

    #[test]
    fn only_http_proxies_are_known_and_no_error_shows_a_password() {
        assert_eq!(proxy("proxy", "", "hub").unwrap().unwrap().authority, "proxy:3128");
        assert_eq!(proxy("http://[fd00::1]:80/", "", "hub").unwrap().unwrap().authority, "[fd00::1]:80");
        assert_eq!(proxy("", "", "hub").unwrap(), None);
        for (setting, says) in [
            ("https://u:secret@proxy:1", "by https"),
            ("socks5://u:secret@proxy:1", "by socks5"),
            ("http://u:secret@pro xy:1", "\"pro xy:1\""),
        ] {
            let error = proxy(setting, "", "hub").unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
    }

    #[test]
    fn credentials_are_what_was_meant_and_are_not_shown() {
        let credentials = |setting| proxy(setting, "", "hub").unwrap().unwrap().credentials.unwrap();
        assert_eq!(credentials("http://u:p@proxy:1"), "dTpw");
        assert_eq!(credentials("http://u:p%40%3a%@proxy:1"), "dTpwQDol", "u:p@:%");
        assert_eq!(credentials("http://u@proxy:1"), "dTo=");
        assert!(!format!("{:?}", proxy("http://u:p@proxy:1", "", "hub")).contains("dTpw"));
    }
}
