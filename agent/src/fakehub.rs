//! A hub for tests: its own CA, TLS 1.3 on an ephemeral port, and what a test makes it say.

use std::{path::Path, sync::Arc};

use futures::{SinkExt as _, StreamExt as _};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PublicKeyData};
use ring::digest::{SHA256, digest};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use selvedge_protocol::agent::{ToAgent, ToHub, to_agent::Message as Down, to_hub::Message as Up};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, accept_async,
    tungstenite::{Message as Frame, protocol::CloseFrame},
};

use crate::identity::{self, Identity};

/// Cluster id of the fake hub.
pub const CLUSTER: &str = "cluster-1";

/// A CA, and a hub with a certificate of it.
pub struct FakeHub {
    ca: CertifiedIssuer<'static, KeyPair>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

/// The hub's end of a session.
pub struct HubSession {
    socket: WebSocketStream<TlsStream<TcpStream>>,
}

impl FakeHub {
    /// A hub at `localhost`; `mutual` asks clients for a certificate of its CA.
    pub async fn start(mutual: bool) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test CA");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        let ca_der: CertificateDer<'static> = ca.as_ref().der().clone();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(ca_der.clone()).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .unwrap();
        let builder = if mutual {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let chain = vec![leaf.der().clone(), ca_der];
        let config =
            builder.with_single_cert(chain, PrivateKeyDer::Pkcs8(key.serialize_der().into())).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { ca, listener, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.listener.local_addr().unwrap().port())
    }

    /// The pin of its CA.
    pub fn pin(&self) -> String {
        let spki = self.ca.key().subject_public_key_info();
        digest(&SHA256, &spki).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Its CA certificate as PEM.
    pub fn ca_pem(&self) -> String {
        self.ca.as_ref().pem()
    }

    /// A client certificate for the key of `public`, as PEM.
    pub fn certify(&self, public: &impl PublicKeyData) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "shop-1");
        params.signed_by(public, &self.ca).unwrap().pem()
    }

    /// Makes a state directory that joined this hub.
    pub fn identify(&self, state_dir: &Path) {
        let key = identity::key(state_dir).unwrap();
        let identity = Identity {
            cluster: CLUSTER.into(),
            node: "shop-1".into(),
            node_uid: "uid-1".into(),
            hub: vec![self.url()],
            certificate_chain: self.certify(&key),
            ca_bundle: self.ca_pem(),
            joined_with: String::new(),
            not_before: 0,
            not_after: 0,
        };
        identity.store(state_dir).unwrap();
    }

    /// The next TLS connection.
    pub async fn accept_tls(&self) -> std::io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(self.listener.accept().await?.0).await
    }

    /// The next session; its Hello is not read yet.
    pub async fn accept(&self) -> HubSession {
        HubSession { socket: accept_async(self.accept_tls().await.unwrap()).await.unwrap() }
    }
}

impl HubSession {
    /// Sends one message.
    pub async fn send(&mut self, message: Down) {
        let frame = selvedge_protocol::encode(&ToAgent { message: Some(message) });
        self.socket.send(Frame::Binary(frame)).await.unwrap();
    }

    /// Closes with a code.
    pub async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        self.socket.close(Some(frame)).await.unwrap();
    }

    /// The next message; None when the agent is gone.
    pub async fn next(&mut self) -> Option<Up> {
        match self.socket.next().await {
            Some(Ok(Frame::Binary(frame))) => selvedge_protocol::decode::<ToHub>(frame).unwrap().message,
            _ => None,
        }
    }

    /// The next message that `pick` takes.
    pub async fn expect<T>(&mut self, pick: impl Fn(Up) -> Option<T>) -> T {
        loop {
            if let Some(picked) = pick(self.next().await.expect("the agent is gone")) {
                return picked;
            }
        }
    }
}
