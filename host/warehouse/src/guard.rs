//! A bound on the server's messages.
//!
//! The client library keeps a message until it has all of it, and a row is one message: of a query that somebody else
//! wrote, one of up to a gigabyte. Here its length is read as it begins, and what is too long never arrives.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

use crate::connect::Shared;
use crate::target::{Endpoint, Place};

/// The kind of a message and its length, which counts itself.
const HEADER_BYTES: usize = 5;

/// What a connection may send.
#[derive(Clone)]
pub(crate) struct Bound {
    /// Most bytes of a message.
    pub bytes_max: u32,
    /// Where it is noted that one was longer.
    pub shared: Arc<Shared>,
}

/// A stream that ends with an error where a message begins that is too long.
pub(crate) struct Guarded<S> {
    inner: S,
    bound: Bound,
    messages: Messages,
}

impl<S> Guarded<S> {
    pub fn new(inner: S, bound: Bound) -> Self {
        let messages = Messages::default();
        Self {
            inner,
            bound,
            messages,
        }
    }
}

/// Where in the server's messages a stream is.
#[derive(Default)]
struct Messages {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that have come.
    known: usize,
    /// Bytes of the message that are still to come, once its header has.
    left: u64,
}

impl Messages {
    /// Goes on by some bytes; false if a message of more than `bytes_max` begins in them.
    fn pass(&mut self, mut bytes: &[u8], bytes_max: u32) -> bool {
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = usize::try_from(self.left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                self.left -= taken as u64;
                bytes = &bytes[taken..];
                continue;
            }
            let taken = (HEADER_BYTES - self.known).min(bytes.len());
            self.header[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
            self.known += taken;
            bytes = &bytes[taken..];
            if self.known == HEADER_BYTES {
                let [_, length @ ..] = self.header;
                let length = u32::from_be_bytes(length);
                if length > bytes_max {
                    return false;
                }
                // A length that does not count itself is for the client library to refuse.
                self.left = u64::from(length).saturating_sub(4);
                self.known = 0;
            }
        }
        true
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        let bytes_max = this.bound.bytes_max;
        if this.messages.pass(&buf.filled()[before..], bytes_max) {
            return Poll::Ready(Ok(()));
        }
        this.bound.shared.too_large.store(true, Ordering::Relaxed);
        Poll::Ready(Err(io::Error::other(format!(
            "a message of the server has more than {bytes_max} bytes"
        ))))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Guarded<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.inner.channel_binding()
    }
}

/// Puts the bound between the encryption and the client library.
#[derive(Clone)]
pub(crate) struct GuardedTls<T> {
    pub inner: T,
    pub bound: Bound,
}

type Connecting<S, E> = Pin<Box<dyn Future<Output = Result<Guarded<S>, E>> + Send>>;

impl<S, T> MakeTlsConnect<S> for GuardedTls<T>
where
    T: MakeTlsConnect<S>,
    T::Stream: Send + 'static,
    <T::TlsConnect as TlsConnect<S>>::Future: Send + 'static,
{
    type Stream = Guarded<T::Stream>;
    type TlsConnect = GuardedTls<T::TlsConnect>;
    type Error = T::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Self::TlsConnect, Self::Error> {
        Ok(GuardedTls {
            inner: self.inner.make_tls_connect(domain)?,
            bound: self.bound.clone(),
        })
    }
}

impl<S, T> TlsConnect<S> for GuardedTls<T>
where
    T: TlsConnect<S>,
    T::Stream: Send + 'static,
    T::Future: Send + 'static,
{
    type Stream = Guarded<T::Stream>;
    type Error = T::Error;
    type Future = Connecting<T::Stream, T::Error>;

    fn connect(self, stream: S) -> Self::Future {
        let (connecting, bound) = (self.inner.connect(stream), self.bound);
        Box::pin(async move { Ok(Guarded::new(connecting.await?, bound)) })
    }
}

/// A connection that is not encrypted.
pub(crate) enum Plain {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Plain {
    /// Connects. Of several addresses of a name the first that answers is taken.
    pub async fn dial(endpoint: &Endpoint) -> io::Result<Self> {
        let port = endpoint.port;
        Ok(match &endpoint.place {
            Place::Unix(directory) => {
                let socket = directory.join(format!(".s.PGSQL.{port}"));
                Self::Unix(UnixStream::connect(socket).await?)
            }
            Place::Tcp { host, address } => {
                let stream = match address {
                    Some(address) => TcpStream::connect((*address, port)).await?,
                    None => TcpStream::connect((host.as_str(), port)).await?,
                };
                stream.set_nodelay(true)?;
                Self::Tcp(stream)
            }
        })
    }
}

impl AsyncRead for Plain {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Plain {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: usize) -> Vec<u8> {
        let length = u32::try_from(body + 4).expect("small").to_be_bytes();
        [&[kind], &length[..], &vec![0; body]].concat()
    }

    /// However the bytes come, it is the messages that count.
    #[test]
    fn each_message_is_measured() {
        let good = [message(b'T', 0), message(b'D', 96), message(b'Z', 1)].concat();
        let long = [good.clone(), message(b'D', 97)].concat();
        for piece in [1, 2, 3, 7, 1000] {
            let pass = |bytes: &[u8]| {
                let mut messages = Messages::default();
                bytes.chunks(piece).all(|bytes| messages.pass(bytes, 100))
            };
            assert!(pass(&good), "pieces of {piece}");
            assert!(!pass(&long), "pieces of {piece}");
            // Its length is enough to know.
            assert!(!pass(&long[..good.len() + HEADER_BYTES]));
            assert!(pass(&long[..good.len() + HEADER_BYTES - 1]));
        }
    }
}
