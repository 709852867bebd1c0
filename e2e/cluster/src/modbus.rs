//! The Modbus TCP server of demo and tests, which is not ours: pymodbus, run by `peers/modbus_server.py`,
//! with a control socket through which a test reads what a driver wrote and sets what it will read.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cache::Cache;
use crate::clock::{Deadline, wait_for};
use crate::edge_host::{EdgeError, EdgeHost};
use crate::python::{self, PythonError};
use crate::tools;

#[derive(Debug, thiserror::Error)]
pub enum ModbusError {
    #[error(transparent)]
    Python(#[from] PythonError),
    #[error(transparent)]
    Edge(#[from] EdgeError),
    #[error("cannot read {}", path.display())]
    Requirements { path: PathBuf, source: std::io::Error },
    #[error("the Modbus server did not answer on {} within {} s", socket.display(), within.as_secs())]
    NotReady { socket: PathBuf, within: Duration },
    #[error("cannot talk to the Modbus server on {}", socket.display())]
    Talk { socket: PathBuf, source: std::io::Error },
    #[error("the Modbus server refused {request:?}: {answer}")]
    Refused { request: String, answer: String },
}

/// A table of registers, as Modbus names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Holding,
    Input,
    Coil,
    Discrete,
}

#[derive(Debug, thiserror::Error)]
#[error("no Modbus table {0:?}; there are holding, input, coil, discrete")]
pub struct NoSuchTable(String);

impl std::str::FromStr for Table {
    type Err = NoSuchTable;

    fn from_str(word: &str) -> Result<Self, NoSuchTable> {
        let all = [Self::Holding, Self::Input, Self::Coil, Self::Discrete];
        all.into_iter().find(|table| table.word() == word).ok_or_else(|| NoSuchTable(word.to_owned()))
    }
}

impl Table {
    fn word(self) -> &'static str {
        match self {
            Self::Holding => "holding",
            Self::Input => "input",
            Self::Coil => "coil",
            Self::Discrete => "discrete",
        }
    }
}

/// A running Modbus server, seen through its control socket.
#[derive(Clone, Debug)]
pub struct ModbusServer {
    socket: PathBuf,
}

/// The process's name on its host.
pub const PROCESS: &str = "modbus-server";

impl ModbusServer {
    /// Starts one on an edge host, listening on all its addresses; waits until it answers.
    pub fn start(edge: &EdgeHost, cache: &Cache, port: u16) -> Result<Self, ModbusError> {
        let server = Self::on(edge)?;
        let words = words(cache, &format!("0.0.0.0:{port}"), Path::new(SOCKET))?;
        edge.spawn(PROCESS, &words, &[])?;
        let within = Duration::from_secs(20);
        let answers = || server.get(Table::Holding, 0).ok();
        wait_for(Deadline::after(within), answers)
            .ok_or_else(|| ModbusError::NotReady { socket: server.socket.clone(), within })?;
        Ok(server)
    }

    /// The one that was started on an edge host before.
    pub fn on(edge: &EdgeHost) -> Result<Self, ModbusError> {
        Ok(Self { socket: edge.path(SOCKET)? })
    }

    /// The value of one register (0 or 1 of a coil).
    pub fn get(&self, table: Table, address: u16) -> Result<u16, ModbusError> {
        let request = format!("get {} {address}", table.word());
        let answer = self.ask(&request)?;
        answer.parse().map_err(|_| ModbusError::Refused { request, answer })
    }

    /// Sets one register.
    pub fn set(&self, table: Table, address: u16, value: u16) -> Result<(), ModbusError> {
        let request = format!("set {} {address} {value}", table.word());
        let answer = self.ask(&request)?;
        if answer == "ok" { Ok(()) } else { Err(ModbusError::Refused { request, answer }) }
    }

    /// How many requests to write the server got by Modbus since it was started.
    pub fn writes(&self) -> Result<u64, ModbusError> {
        let request = "writes";
        let answer = self.ask(request)?;
        answer.parse().map_err(|_| ModbusError::Refused { request: request.to_owned(), answer })
    }

    fn ask(&self, request: &str) -> Result<String, ModbusError> {
        let talk = || {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            writeln!(stream, "{request}")?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer)?;
            Ok(answer.trim().to_owned())
        };
        talk().map_err(|source| ModbusError::Talk { socket: self.socket.clone(), source })
    }
}

/// In the host's own memory, so that it goes with it.
const SOCKET: &str = "/run/modbus.sock";

/// The words that start the server anywhere.
pub fn words(cache: &Cache, listen: &str, control: &Path) -> Result<Vec<String>, ModbusError> {
    let requirements = tools::sources().join("python/modbus.txt");
    let text = std::fs::read_to_string(&requirements)
        .map_err(|source| ModbusError::Requirements { path: requirements, source })?;
    let python = python::environment(cache, "modbus", &text)?.join("bin/python");
    let script = tools::sources().join("../peers/modbus_server.py");
    let paths = [python, script].map(|path| path.display().to_string());
    let options = ["--listen", listen, "--control"].map(str::to_owned);
    Ok(paths.into_iter().chain(options).chain([control.display().to_string()]).collect())
}
