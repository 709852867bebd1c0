//! Modbus over TCP (Modbus Application Protocol 1.1b3; Messaging on TCP/IP 1.0b), through tokio-modbus.

mod codec;
mod reads;

#[cfg(test)]
mod tests;

use std::{collections::HashSet, io, time::Duration};

use selvedge_model::{
    PropertyEntry,
    device::{ModbusProtocol, ModbusSource, PropertyType, RegisterTable},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_modbus::{
    ExceptionCode,
    client::{Context, Reader, Writer, tcp},
    slave::Slave,
};

use super::{
    driver::{Broken, Driver, Outcome},
    value::Value,
};
use reads::Read;

/// For one request and its answer, and for a connection: seconds behind a slow gateway, and still two of
/// them within the time in which an operator expects to see that a device is gone.
const DEADLINE: Duration = Duration::from_secs(2);

/// One Modbus unit.
pub(super) struct Modbus {
    host: String,
    port: u16,
    unit: u8,
    properties: Vec<Outcome<Wired>>,
    context: Option<Context>,
    /// First addresses of requests that the device refuses as a whole: their properties are read one by
    /// one on this connection.
    apart: HashSet<(RegisterTable, u16)>,
}

struct Wired {
    source: ModbusSource,
    value_type: PropertyType,
}

/// What one request brought.
enum Answer {
    Words(Vec<u16>),
    Bits(Vec<bool>),
    Exception(ExceptionCode),
}

/// What is to be written.
enum Write {
    Coil(bool),
    Words(Vec<u16>),
}

impl Modbus {
    /// A driver for a unit; an error: the entry does not say where it is.
    pub(super) fn new(protocol: &ModbusProtocol, properties: &[PropertyEntry]) -> Outcome<Self> {
        let tcp = protocol.tcp.as_ref().ok_or("protocol.modbus has no transport that this agent knows")?;
        Ok(Self {
            host: tcp.host.clone(),
            port: tcp.port,
            unit: protocol.unit_id,
            properties: properties.iter().map(wired).collect(),
            context: None,
            apart: HashSet::new(),
        })
    }

    fn property(&self, property: usize) -> Outcome<&Wired> {
        match self.properties.get(property) {
            Some(wired) => wired.as_ref().map_err(Clone::clone),
            None => Err("no such property".to_owned()),
        }
    }

    fn context(&mut self) -> Result<&mut Context, Broken> {
        self.context.as_mut().ok_or_else(|| Broken::ConnectionLost("there is no connection".to_owned()))
    }

    /// An answer may still come, and be taken for that of another request: so the connection is over.
    fn silent(&self) -> Broken {
        let (unit, host, port) = (self.unit, &self.host, self.port);
        Broken::Timeout(format!(
            "Modbus unit {unit} at {host}:{port} did not answer within {} s",
            DEADLINE.as_secs()
        ))
    }

    /// What the transport or the protocol says against the connection. An end of the stream comes from
    /// tokio-modbus with whatever errno was last, so of transport errors only those of form are quoted.
    fn broken(&self, error: &tokio_modbus::Error) -> Broken {
        let at = format!("Modbus unit {} at {}:{}", self.unit, self.host, self.port);
        match error {
            tokio_modbus::Error::Transport(io) if io.kind() != io::ErrorKind::InvalidData => {
                Broken::ConnectionLost(format!("the connection to {at} was lost"))
            }
            _ => Broken::ProtocolError(format!("{at} sends what is no answer: {error}")),
        }
    }

    /// A gateway that is there says that the unit behind it is not.
    fn no_unit(&self, code: ExceptionCode) -> Result<(), Broken> {
        match code {
            ExceptionCode::GatewayPathUnavailable | ExceptionCode::GatewayTargetDevice => {
                Err(Broken::Unreachable(format!(
                    "the gateway at {}:{} does not reach Modbus unit {}: {code}",
                    self.host, self.port, self.unit
                )))
            }
            _ => Ok(()),
        }
    }

    async fn ask(&mut self, read: &Read) -> Result<Answer, Broken> {
        let context = self.context()?;
        let (from, count) = (read.address, read.count);
        let asked = async {
            Ok(match read.table {
                RegisterTable::Coil => context.read_coils(from, count).await?.map(Answer::Bits),
                RegisterTable::DiscreteInput => {
                    context.read_discrete_inputs(from, count).await?.map(Answer::Bits)
                }
                RegisterTable::InputRegister => {
                    context.read_input_registers(from, count).await?.map(Answer::Words)
                }
                RegisterTable::HoldingRegister | RegisterTable::Unknown => {
                    context.read_holding_registers(from, count).await?.map(Answer::Words)
                }
            })
        };
        match timeout(DEADLINE, asked).await {
            Err(_) => Err(self.silent()),
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(code))) => self.no_unit(code).map(|()| Answer::Exception(code)),
            Ok(Err(error)) => Err(self.broken(&error)),
        }
    }

    /// Takes the values out of an answer.
    fn values(&self, read: &Read, answer: &Answer, into: &mut Vec<(usize, Outcome<Value>)>) {
        for &(property, offset) in &read.properties {
            let offset = usize::from(offset);
            let outcome = self.property(property).and_then(|wired| {
                let short = || format!("the device sent less than the {} that were asked for", read.count);
                let raw = match answer {
                    Answer::Words(words) => {
                        let end = offset + usize::from(wired.source.encoding.registers());
                        codec::raw(&wired.source, words.get(offset..end).ok_or_else(short)?)?
                    }
                    Answer::Bits(bits) => codec::Raw::Int((*bits.get(offset).ok_or_else(short)?).into()),
                    Answer::Exception(code) => {
                        return Err(format!(
                            "reading {:?} {}: the device answers {code}",
                            wired.source.table, wired.source.address
                        ));
                    }
                };
                codec::value(&wired.source, wired.value_type, raw)
            });
            into.push((property, outcome));
        }
    }
}

fn wired(property: &PropertyEntry) -> Outcome<Wired> {
    let source = property.source.as_ref().and_then(|source| source.modbus.as_ref());
    let source = source.ok_or("it has no modbus source")?.clone();
    match codec::unfit(&source, property.value_type) {
        Some(why) => Err(why),
        None => Ok(Wired { source, value_type: property.value_type }),
    }
}

impl Driver for Modbus {
    async fn connect(&mut self) -> Result<(), Broken> {
        self.context = None;
        self.apart.clear();
        let Ok(connected) = timeout(DEADLINE, TcpStream::connect((self.host.as_str(), self.port))).await
        else {
            return Err(self.silent());
        };
        // A request is one small write: waiting to send more with it only costs time.
        let stream =
            connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)).map_err(|error| {
                Broken::Unreachable(format!("connect to Modbus TCP at {}:{}: {error}", self.host, self.port))
            })?;
        self.context = Some(tcp::attach_slave(stream, Slave(self.unit)));
        Ok(())
    }

    fn unfit(&self, property: usize, write: bool) -> Option<String> {
        match self.property(property) {
            Err(why) => Some(why),
            Ok(wired) => {
                let writable =
                    matches!(wired.source.table, RegisterTable::Coil | RegisterTable::HoldingRegister);
                (write && !writable).then(|| format!("{:?} cannot be written", wired.source.table))
            }
        }
    }

    fn stored(&self, property: usize, value: &Value) -> Outcome<Value> {
        let wired = self.property(property)?;
        let raw = match (wired.source.table, value) {
            (RegisterTable::Coil, Value::Bool(on)) => codec::Raw::Int((*on).into()),
            (RegisterTable::Coil, Value::Int(bit @ (0 | 1))) => codec::Raw::Int(i64::from(*bit == 1)),
            (RegisterTable::Coil, other) => return Err(format!("{} is nothing for a coil", other.json())),
            _ => {
                let raw = codec::stored(&wired.source, value)?;
                codec::words(&wired.source, raw)?;
                raw
            }
        };
        codec::value(&wired.source, wired.value_type, raw)
    }

    async fn read(&mut self, properties: &[usize]) -> Result<Vec<(usize, Outcome<Value>)>, Broken> {
        let mut values = Vec::with_capacity(properties.len());
        let places = properties.iter().filter_map(|&p| Some((p, &self.property(p).ok()?.source)));
        for read in reads::reads(places) {
            let alone = read.properties.len() == 1;
            if alone || !self.apart.contains(&(read.table, read.address)) {
                let answer = self.ask(&read).await?;
                if alone || !matches!(answer, Answer::Exception(_)) {
                    self.values(&read, &answer, &mut values);
                    continue;
                }
                self.apart.insert((read.table, read.address));
            }
            // One address that the device does not have must not hide its neighbours.
            for &(property, offset) in &read.properties {
                let Ok(wired) = self.property(property) else { continue };
                let count = reads::width(&wired.source);
                let address = read.address + offset;
                let one = Read { table: read.table, address, count, properties: vec![(property, 0)] };
                let answer = self.ask(&one).await?;
                self.values(&one, &answer, &mut values);
            }
        }
        Ok(values)
    }

    async fn write(&mut self, property: usize, value: &Value) -> Result<Outcome<()>, Broken> {
        let request = self.property(property).and_then(|wired| {
            let write = match wired.source.table {
                RegisterTable::Coil => Write::Coil(matches!(value, Value::Bool(true) | Value::Int(1))),
                _ => Write::Words(codec::words(&wired.source, codec::stored(&wired.source, value)?)?),
            };
            Ok((write, wired.source.table, wired.source.address))
        });
        let (write, table, address) = match request {
            Ok(request) => request,
            Err(why) => return Ok(Err(why)),
        };
        let context = self.context()?;
        let asked = async {
            match write {
                Write::Coil(on) => context.write_single_coil(address, on).await,
                Write::Words(words) => match words.as_slice() {
                    &[word] => context.write_single_register(address, word).await,
                    words => context.write_multiple_registers(address, words).await,
                },
            }
        };
        match timeout(DEADLINE, asked).await {
            Err(_) => Err(self.silent()),
            Ok(Ok(Ok(()))) => Ok(Ok(())),
            Ok(Ok(Err(code))) => {
                self.no_unit(code)?;
                Ok(Err(format!("writing {table:?} {address}: the device answers {code}")))
            }
            Ok(Err(error)) => Err(self.broken(&error)),
        }
    }
}
