//! The driver against tokio-modbus's own server, over real sockets on a port of the kernel's choice.

use std::{
    collections::BTreeMap,
    future::Ready,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_modbus::{
    ExceptionCode, Request, Response,
    server::{
        Service,
        tcp::{Server, accept_tcp_connection},
    },
};

use crate::devices::{
    Devices, board,
    tests::{device, until, values},
};

/// The registers that the device has, and what was done to them.
#[derive(Clone, Default)]
struct Registers {
    words: Arc<Mutex<BTreeMap<u16, u16>>>,
    writes: Arc<AtomicU32>,
    connections: Arc<AtomicU32>,
}

impl Registers {
    fn with(words: &[(u16, u16)]) -> Self {
        Self { words: Arc::new(Mutex::new(words.iter().copied().collect())), ..Self::default() }
    }

    fn get(&self, address: u16) -> u16 {
        self.words.lock().unwrap()[&address]
    }

    /// A server that ends when the set is dropped.
    async fn serve(&self, at: &str) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let registers = self.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let server = Server::new(listener);
            let connected = |stream, peer| {
                let registers = registers.clone();
                async move {
                    registers.connections.fetch_add(1, Ordering::Relaxed);
                    accept_tcp_connection(stream, peer, |_| Ok(Some(registers.clone())))
                }
            };
            let _ = server.serve(&connected, |_| {}).await;
        });
        (address, tasks)
    }
}

impl Service for Registers {
    type Request = Request<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        let mut words = self.words.lock().unwrap();
        let mut write = |address: u16, values: &[u16]| {
            self.writes.fetch_add(1, Ordering::Relaxed);
            words.extend((address..).zip(values.iter().copied()));
        };
        std::future::ready(match request {
            Request::ReadHoldingRegisters(from, count) => {
                let read: Option<Vec<_>> = (from..from + count).map(|at| words.get(&at).copied()).collect();
                read.map(Response::ReadHoldingRegisters).ok_or(ExceptionCode::IllegalDataAddress)
            }
            Request::WriteSingleRegister(address, word) => {
                write(address, &[word]);
                Ok(Response::WriteSingleRegister(address, word))
            }
            Request::WriteMultipleRegisters(address, values) => {
                write(address, &values);
                Ok(Response::WriteMultipleRegisters(address, u16::try_from(values.len()).unwrap()))
            }
            _ => Err(ExceptionCode::IllegalFunction),
        })
    }
}

fn entry(at: SocketAddr, setpoint: i32, limit: f64) -> serde_json::Value {
    let holding = |address: u16, encoding: &str| json!({"modbus": {"table": "HoldingRegister", "address": address, "encoding": encoding}});
    let mut temperature = holding(18, "Int16");
    temperature["modbus"]["scale"] = 0.1.into();
    json!({
        "protocol": {"modbus": {"tcp": {"host": at.ip().to_string(), "port": at.port()}, "unitId": 1}},
        "properties": [
            {"name": "setpoint", "type": "int", "access": "ReadWrite", "readInterval": "10ms",
             "source": holding(17, "Uint16"), "desired": setpoint},
            {"name": "temperature", "type": "float", "readInterval": "10ms", "reportInterval": "10ms",
             "source": temperature},
            {"name": "missing", "type": "int", "source": holding(19, "Uint16")},
            {"name": "limit", "type": "float", "access": "ReadWrite", "source": holding(30, "Float32"),
             "desired": limit},
        ],
    })
}

#[tokio::test]
async fn reads_writes_the_difference_and_follows_changes_both_ways() {
    let registers = Registers::with(&[(17, 60), (18, 215), (30, 0), (31, 0)]);
    let (at, _server) = registers.serve("127.0.0.1:0").await;
    let mut devices = Devices::new();
    let board = devices.reports();
    devices.apply(vec![device(1, entry(at, 60, 0.1))]);
    let report = until(&board, |report| report.content_hash.is_some()).await;
    let missing = "reading HoldingRegister 19: the device answers Illegal data address";
    assert_eq!(values(&report), [("60", "60", ""), ("21.5", "", ""), ("", "", missing), ("0.1", "0.1", "")]);
    assert_eq!(registers.writes.load(Ordering::Relaxed), 1, "the setpoint was there already");

    devices.apply(vec![device(2, entry(at, 61, 0.1))]);
    until(&board, |report| report.content_hash == Some(device(2, json!({"protocol": {}})).content_hash))
        .await;
    assert_eq!(registers.get(17), 61);
    assert_eq!(registers.writes.load(Ordering::Relaxed), 2);

    registers.words.lock().unwrap().insert(18, 65535);
    until(&board, |report| report.state.properties[1].reported == "-0.1").await;
    assert_eq!(registers.connections.load(Ordering::Relaxed), 1, "never connected anew");
}

#[tokio::test]
async fn a_server_that_goes_is_told_and_one_that_returns_gets_what_is_desired() {
    let registers = Registers::with(&[(17, 0), (18, 0), (19, 0), (30, 0), (31, 0)]);
    let (at, server) = registers.serve("127.0.0.1:0").await;
    let mut devices = Devices::new();
    let board: Arc<board::ReportBoard> = devices.reports();
    devices.apply(vec![device(1, entry(at, 60, 1.5))]);
    let before = until(&board, |report| report.content_hash.is_some()).await;
    drop(server);
    let report = until(&board, |report| !report.state.connected).await;
    assert!(["ConnectionLost", "Unreachable"].contains(&report.state.reason.as_str()), "{report:?}");
    assert_eq!(report.content_hash, before.content_hash, "it was applied, and nothing says otherwise");

    // The device comes back with its own values: a power cut, say.
    *registers.words.lock().unwrap() = [(17, 5), (18, 0), (19, 0), (30, 0), (31, 0)].into();
    let (_, _server) = registers.serve(&at.to_string()).await;
    until(&board, |report| report.state.connected && report.content_hash.is_some()).await;
    assert_eq!((registers.get(17), registers.get(30)), (60, 0x3fc0));
}
