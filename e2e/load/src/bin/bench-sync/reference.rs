//! The floor: tokio and rustls, prebuilt frames, no logic.
//!
//! In: connections with mutual TLS, on which the client says one byte. Out: the same bytes to all of them when
//! a byte comes on stdin, each answered by one small read. A process of its own, so that its CPU is its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use selvedge_agent::dial::{Endpoint, Tls};
use selvedge_load::authority::{Authority, new_key};
use selvedge_stories::{Outcome, StoryError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::rig::{cpu_s, io};

/// What an agent answers: an Ack in its envelope and frame.
const ANSWER: usize = 24;
/// Handshakes at once.
const DIALS: usize = 64;

/// Of the server's process.
#[derive(clap::Args)]
pub struct Args {
    #[arg(long)]
    ca: PathBuf,
    #[arg(long)]
    certificate: PathBuf,
    #[arg(long)]
    key: PathBuf,
    #[arg(long)]
    port: u16,
    #[arg(long)]
    bytes: usize,
}

fn tls(error: impl std::fmt::Display) -> StoryError {
    StoryError::Unexpected { what: "TLS of the reference can be set up".into(), found: error.to_string() }
}

/// Serves until stdin ends.
pub fn serve(args: &Args) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(io("start a runtime"))?.block_on(serve_async(args))
}

async fn serve_async(args: &Args) -> Outcome {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&args.ca).map_err(tls)?).map_err(tls)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(verifier.build().map_err(tls)?)
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&args.certificate).map_err(tls)?],
            PrivateKeyDer::from_pem_file(&args.key).map_err(tls)?,
        )
        .map_err(tls)?;
    config.send_tls13_tickets = 0;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", args.port)).await.map_err(io("listen"))?;
    let (turn, turns) = watch::channel(0_u64);
    let frame: Arc<[u8]> = vec![7; args.bytes].into();
    let mut connections = JoinSet::new();
    let mut over = turns.clone();
    std::thread::spawn(move || {
        use std::io::Read as _;
        let mut stdin = std::io::stdin().lock();
        // With the end of stdin the sender goes, and with it everything else.
        while stdin.read_exact(&mut [0]).is_ok() {
            turn.send_modify(|turn| *turn += 1);
        }
    });
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.map_err(io("accept"))?;
                stream.set_nodelay(true).map_err(io("accept"))?;
                let (acceptor, turns, frame) = (acceptor.clone(), turns.clone(), frame.clone());
                connections.spawn(async move {
                    // Boxed: the handshake's state must not stay with the connection.
                    if let Ok(stream) = Box::pin(acceptor.accept(stream)).await {
                        let _over = connection(stream, turns, &frame).await;
                    }
                });
            }
            changed = over.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

async fn connection(
    mut stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    mut turns: watch::Receiver<u64>,
    frame: &[u8],
) -> std::io::Result<()> {
    let mut buffer = [0; 64];
    turns.mark_unchanged();
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => if read? == 0 { return Ok(()) },
            changed = turns.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                stream.write_all(frame).await?;
                stream.flush().await?;
            }
        }
    }
}

/// CPU of the floor for one frame of `bytes` to one connection, seconds: the mean over `rounds` frames to
/// `connections`.
pub async fn measure(
    ca: (&Path, &Path),
    directory: &Path,
    connections: u32,
    bytes: usize,
    rounds: u64,
) -> Outcome<f64> {
    let pem = std::fs::read_to_string(ca.0).map_err(io("read the CA"))?;
    let key_pem = std::fs::read_to_string(ca.1).map_err(io("read the CA"))?;
    let port = crate::rig::free_port()?;
    let server = Server::start(&pem, &key_pem, ca.0, directory, port, bytes)?;
    let authority = Authority::of(pem, &key_pem).map_err(tls)?;
    let key = new_key().map_err(tls)?;
    let identity = authority.issue("bench", "reference", "reference", &key).map_err(tls)?;
    let client = Tls::mutual(&identity, &key, 0).map_err(tls)?;
    let endpoint: Endpoint = format!("https://127.0.0.1:{port}").parse().map_err(tls)?;

    let got = Arc::new(AtomicUsize::new(0));
    let up = Arc::new(AtomicUsize::new(0));
    let dials = Arc::new(Semaphore::new(DIALS));
    let mut tasks = JoinSet::new();
    for number in 0..connections {
        let (client, endpoint, got, up, dials) =
            (client.clone(), endpoint.clone(), got.clone(), up.clone(), dials.clone());
        tasks.spawn(async move {
            let permit = dials.acquire_owned().await.map_err(std::io::Error::other)?;
            let socket = TcpSocket::new_v4()?;
            // One address has too few ports for many connections.
            let [block, ..] = (number / 10_000 + 1).to_le_bytes();
            socket.bind((std::net::Ipv4Addr::new(127, 0, 2, block), 0).into())?;
            let stream = socket.connect((std::net::Ipv4Addr::LOCALHOST, endpoint.port).into()).await?;
            stream.set_nodelay(true)?;
            let connector = TlsConnector::from(client.config.clone());
            let mut stream = Box::pin(connector.connect(endpoint.name.clone(), stream)).await?;
            drop(permit);
            up.fetch_add(1, Ordering::Relaxed);
            let mut frame = vec![0; bytes];
            loop {
                stream.read_exact(&mut frame).await?;
                got.fetch_add(1, Ordering::Relaxed);
                stream.write_all(&[1; ANSWER]).await?;
                stream.flush().await?;
            }
            #[allow(unreachable_code, reason = "names the task's type")]
            std::io::Result::Ok(())
        });
    }
    let wanted = connections as usize;
    until("the reference's connections are up", || up.load(Ordering::Relaxed) >= wanted).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut server = server;
    let before = cpu_s(server.child.id());
    for round in 1..=rounds {
        server.turn()?;
        let all = wanted * usize::try_from(round).unwrap_or(1);
        until("the reference's frames are there", || got.load(Ordering::Relaxed) >= all).await?;
    }
    // The last answers are read.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spent = cpu_s(server.child.id()) - before;
    tasks.shutdown().await;
    Ok(spent / (f64::from(connections) * rounds as f64))
}

struct Server {
    child: Child,
}

impl Server {
    fn start(
        pem: &str,
        key_pem: &str,
        ca: &Path,
        directory: &Path,
        port: u16,
        bytes: usize,
    ) -> Outcome<Self> {
        let (certificate, key) = (directory.join("reference.crt"), directory.join("reference.key"));
        let serving = serving(pem, key_pem).map_err(tls)?;
        std::fs::write(&certificate, serving.0).map_err(io("write the reference's certificate"))?;
        std::fs::write(&key, serving.1).map_err(io("write the reference's key"))?;
        let me = std::env::current_exe().map_err(io("find this program"))?;
        let child = Command::new(me)
            .arg("reference")
            .arg("--ca")
            .arg(ca)
            .arg("--certificate")
            .arg(&certificate)
            .arg("--key")
            .arg(&key)
            .args(["--port", &port.to_string(), "--bytes", &bytes.to_string()])
            .stdin(Stdio::piped())
            .spawn()
            .map_err(io("start the reference"))?;
        let server = Self { child };
        let deadline = selvedge_cluster::clock::Deadline::after(Duration::from_secs(10));
        let up = || std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop);
        selvedge_cluster::clock::wait_for(deadline, up).ok_or_else(|| StoryError::NotInTime {
            what: "the reference listens".into(),
            within: Duration::from_secs(10),
            last: String::new(),
        })?;
        Ok(server)
    }

    fn turn(&mut self) -> Outcome {
        use std::io::Write as _;
        let Some(stdin) = &mut self.child.stdin else { return Ok(()) };
        stdin.write_all(b"1").and_then(|()| stdin.flush()).map_err(io("tell the reference"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn serving(pem: &str, key_pem: &str) -> Result<(String, String), rcgen::Error> {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
    let issuer = Issuer::from_ca_cert_pem(pem, KeyPair::from_pem(key_pem)?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
}

async fn until(what: &str, holds: impl Fn() -> bool) -> Outcome {
    let within = Duration::from_secs(120);
    let deadline = tokio::time::Instant::now() + within;
    while !holds() {
        if tokio::time::Instant::now() > deadline {
            return Err(StoryError::NotInTime { what: what.into(), within, last: String::new() });
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
