//! The way to a hub through a proxy on the loopback.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{DialError, Endpoint, ProxyError, ProxySettings, Tls, dial_through};
use crate::{
    fakehub::FakeHub,
    identity::{self, Identity},
};

/// Far more than any step takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy that takes one connection.
struct ConnectProxy(TcpListener);

impl ConnectProxy {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn settings(&self, userinfo: &str, exceptions: &str) -> ProxySettings {
        let address = self.0.local_addr().unwrap();
        ProxySettings::new(&format!("http://{userinfo}{address}"), exceptions)
    }

    /// Reads a request; gives it and its connection.
    async fn request(&self) -> (String, TcpStream) {
        let (mut stream, _) = self.0.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        (String::from_utf8(request).unwrap(), stream)
    }
}

/// A hub, its address, and how a node of it speaks TLS.
async fn hub() -> (FakeHub, Endpoint, Tls) {
    let hub = FakeHub::start(true).await;
    let dir = tempfile::tempdir().unwrap();
    hub.identify(dir.path());
    let identity = Identity::load(dir.path()).unwrap();
    let tls = Tls::mutual(&identity, &identity::key(dir.path()).unwrap(), 0).unwrap();
    let endpoint = hub.url().parse().unwrap();
    (hub, endpoint, tls)
}

#[tokio::test]
async fn a_hub_is_reached_through_a_proxy_that_sees_tls_alone() {
    let (hub, endpoint, tls) = hub().await;
    let proxy = ConnectProxy::start().await;
    let settings = proxy.settings("edge:s%40cret@", "other.example");
    let hub = Arc::new(hub);
    let (target, end) = (endpoint.authority(), Arc::clone(&hub));
    let story = async {
        let pass = async {
            let (request, mut near) = proxy.request().await;
            let mut far = TcpStream::connect(&target).await.unwrap();
            near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            // Ends with either side; how is of no interest.
            let _ = copy_bidirectional(&mut near, &mut far).await;
            request
        };
        let accept = async {
            let mut stream = end.accept_tls().await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let dialled = async {
            let mut stream = dial_through(&settings, &endpoint, &tls).await.unwrap();
            let mut heard = [0; 5];
            stream.read_exact(&mut heard).await.unwrap();
            heard
        };
        tokio::join!(pass, accept, dialled)
    };
    let (request, (), heard) = timeout(PATIENCE, story).await.unwrap();
    assert_eq!(&heard, b"hello");
    assert!(request.starts_with(&format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n")), "{request}");
    // edge:s@cret
    assert!(request.contains("Proxy-Authorization: Basic ZWRnZTpzQGNyZXQ=\r\n"), "{request}");
}

#[tokio::test]
async fn an_exception_goes_past_the_proxy() {
    let (hub, endpoint, tls) = hub().await;
    let proxy = ConnectProxy::start().await;
    let settings = proxy.settings("", "localhost");
    let story = async { tokio::join!(hub.accept_tls(), dial_through(&settings, &endpoint, &tls)) };
    let (accepted, dialled) = timeout(PATIENCE, story).await.unwrap();
    assert!(accepted.is_ok() && dialled.is_ok());
}

#[tokio::test]
async fn what_a_proxy_refuses_is_told_with_what_to_do() {
    let (_hub, endpoint, tls) = hub().await;
    let proxy = ConnectProxy::start().await;
    let settings = proxy.settings("", "");
    for (answer, says) in [
        ("HTTP/1.1 407 Who are you\r\n\r\n", "write user and password into HTTPS_PROXY"),
        ("HTTP/1.1 503 No way\r\n\r\n", "503 No way"),
        ("SSH-2.0-x\r\n\r\n", "SSH-2.0-x"),
    ] {
        let story = async {
            let refuse = async {
                let (_, mut stream) = proxy.request().await;
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            tokio::join!(refuse, dial_through(&settings, &endpoint, &tls)).1
        };
        let error = timeout(PATIENCE, story).await.unwrap().unwrap_err();
        let DialError::Proxy { source, .. } = &error else { panic!("{error:?}") };
        assert!(matches!(source, ProxyError::Unauthorized(_) | ProxyError::Refused(_)));
        assert!(crate::chain::chain(&error).contains(says), "{error:?}");
    }
}
