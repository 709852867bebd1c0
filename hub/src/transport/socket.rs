//! One WebSocket with bounded buffers and a deadline on every write.

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use selvedge_protocol::MAX_FRAME_BYTES;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use crate::faults::Fault;

/// Each session keeps this buffer, and the frames of an agent at rest are small: the default is 128 KiB.
const READ_BUFFER: usize = 256;
/// For answers to pings and goodbyes, which have 125 bytes at most: all else passes this buffer by.
const WRITE_BUFFER: usize = 4096;
/// The longest head of a frame that a server sends (RFC 6455, section 5.2).
const HEAD: usize = 10;
/// A peer that takes no byte of a frame's rest for this long is gone, or reads on purpose too slowly. A delta
/// of 256 KiB goes through a link of 10 KB/s in that time.
const WRITE: Duration = Duration::from_secs(30);
/// A goodbye at the WebSocket's level takes this long at most.
const CLOSE: Duration = Duration::from_secs(1);
/// What a broken peer still sends is read and dropped for this long and up to this size: a socket that is
/// closed with bytes unread sends a reset, and the close code before it is lost.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: u64 = 4 * MAX_FRAME_BYTES as u64;

/// See the module.
pub struct Socket(WebSocketStream<TokioIo<Upgraded>>);

/// Why a socket is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The peer closed it.
    #[error("the agent closed the connection")]
    Closed,
    /// It takes nothing.
    #[error("the agent took nothing for {} s", WRITE.as_secs())]
    Stuck,
    /// Not frames of a WebSocket within the limits, or no connection any more.
    #[error("the connection broke")]
    Broken(#[source] Box<Error>),
    /// A frame of text.
    #[error("the agent sent text")]
    Text,
}

impl SocketError {
    /// What the peer did wrong, if that is why.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Closed | Self::Stuck => None,
            Self::Text => Some(Fault::TextFrame),
            Self::Broken(error) => match **error {
                Error::Capacity(_) => Some(Fault::OversizedFrame),
                // A link that was cut, and what was on its way when we closed.
                Error::Protocol(
                    ProtocolError::ResetWithoutClosingHandshake
                    | ProtocolError::SendAfterClosing
                    | ProtocolError::ReceivedAfterClosing,
                ) => None,
                Error::Protocol(_) | Error::Utf8(_) => Some(Fault::BrokenWebSocket),
                _ => None,
            },
        }
    }
}

/// A socket over an upgraded connection.
pub async fn open(upgraded: Upgraded) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(MAX_FRAME_BYTES))
        .max_frame_size(Some(MAX_FRAME_BYTES));
    Socket(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await)
}

impl Socket {
    /// The next binary frame. Cancel-safe.
    pub async fn next(&mut self) -> Result<Bytes, SocketError> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(bytes),
                Some(Ok(Message::Close(_))) | None => return Err(SocketError::Closed),
                Some(Ok(Message::Text(_))) => return Err(SocketError::Text),
                // Pings are answered by the library.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(SocketError::Broken(Box::new(error))),
            }
        }
    }

    /// Sends one binary frame. Not cancel-safe: a frame that was begun must be ended.
    pub async fn send(&mut self, frame: Bytes) -> Result<(), SocketError> {
        match timeout(WRITE, self.put(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(SocketError::Broken(Box::new(error))),
            Err(_) => Err(SocketError::Stuck),
        }
    }

    /// Past the library's buffer, which would keep the size of the largest frame for as long as the session lives.
    async fn put(&mut self, frame: Bytes) -> Result<(), Error> {
        // The answer to a ping that was begun must be ended first.
        self.0.flush().await?;
        let mut head = Vec::with_capacity(HEAD);
        let empty = Frame::message(Bytes::new(), OpCode::Data(Data::Binary), true);
        empty.header().format(frame.len() as u64, &mut head)?;
        let stream = self.0.get_mut();
        stream.write_all_buf(&mut Bytes::from(head).chain(frame)).await?;
        Ok(stream.flush().await?)
    }

    /// Says goodbye at the WebSocket's level, to a broken peer with the code of its fault; one that does not
    /// take it is left.
    pub async fn close(mut self, fault: Option<Fault>) {
        let frame = fault.map(|fault| CloseFrame { code: fault.close_code(), reason: fault.name().into() });
        if timeout(CLOSE, self.0.close(frame)).await.is_err() || fault.is_none() {
            return;
        }
        let stream = self.0.get_mut();
        let rest = async {
            stream.shutdown().await?;
            copy(&mut stream.take(LINGER_BYTES), &mut sink()).await
        };
        // Whether the peer has read it is its own affair.
        let _ = timeout(LINGER, Box::pin(rest)).await;
    }
}
