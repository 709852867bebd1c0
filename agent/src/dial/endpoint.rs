//! Where a hub is: `https://host:port`.

use std::{fmt, str::FromStr};

use rustls::pki_types::ServerName;

/// The address of a hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port; 443 when the address names none.
    pub port: u16,
    /// What its certificate must be for.
    pub name: ServerName<'static>,
}

/// A text is not the address of a hub.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the address of a hub: write https://host:port")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let fault = || EndpointError(text.to_owned());
        let uri: hyper::Uri = text.parse().map_err(|_| fault())?;
        if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") {
            return Err(fault());
        }
        let host = uri.host().ok_or_else(fault)?.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| fault())?;
        Ok(Self { host, port: uri.port_u16().unwrap_or(443), name })
    }
}

impl Endpoint {
    /// `host:port`, with brackets around an IPv6 address.
    #[must_use]
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::Endpoint;

    #[test]
    fn addresses_are_read() {
        let endpoint: Endpoint = "https://hub.example".parse().unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("hub.example", 443));
        let endpoint: Endpoint = "https://[fd00::1]:8443/".parse().unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.authority().as_str()), ("fd00::1", "[fd00::1]:8443"));
        for bad in ["http://hub", "hub:8443", "https://", "https://hub/path", "https://a b"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
