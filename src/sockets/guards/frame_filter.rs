//! A websocket stream that screens messages before socketioxide reads them.
//!
//! Frames are passed on unchanged, so that socketioxide keeps handling the protocol. A message that
//! must not reach it is overwritten in place with a pong, a text that begins with `3`, which it
//! ignores.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    connection_guard::Guard,
    frames::{FIN, Frames, MASKED, TEXT},
};

/// Number of bytes read at once.
const READ: usize = 2 * 1024;

/// A frame with the packet by which a client closes the transport. At the end of the stream
/// socketioxide would send nothing more, not even data that is already pending.
const CLOSE: [u8; 7] = [FIN | TEXT, MASKED | 1, 0, 0, 0, 0, b'1'];

/// The stream of a client's websocket.
pub struct FilteredStream<S> {
    stream: S,
    guard: Arc<Guard>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    cut_off: Pin<Box<WaitForCancellationFutureOwned>>,
    frames: Frames,
    is_over: bool,
    /// Whether the websocket upgrades a polling session. If the upgrade fails, the session ends.
    is_upgrade: bool,
}

impl<S> FilteredStream<S> {
    /// Wraps the stream of a client that `guard` watches.
    pub fn new(stream: S, guard: Arc<Guard>, is_upgrade: bool) -> Self {
        let ended = Box::pin(guard.ended().clone().cancelled_owned());
        let cut_off = Box::pin(guard.cut_off().clone().cancelled_owned());
        Self {
            stream,
            guard,
            ended,
            cut_off,
            frames: Frames::default(),
            is_over: false,
            is_upgrade,
        }
    }

    /// Returns the result of a write, or an error if the write is pending and the connection was
    /// cut off because the client does not read.
    fn unless_cut_off<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_pending() && self.cut_off.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        written
    }
}

impl<S> Drop for FilteredStream<S> {
    fn drop(&mut self) {
        if self.is_upgrade {
            // Harmless if the session was upgraded: it has ended already or is about to.
            self.guard.end_session();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FilteredStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.frames.take(buffer) {
                return Poll::Ready(Ok(()));
            }
            if this.ended.as_mut().poll(cx).is_ready() {
                if !std::mem::replace(&mut this.is_over, true) && buffer.remaining() >= CLOSE.len()
                {
                    buffer.put_slice(&CLOSE);
                }
                return Poll::Ready(Ok(()));
            }
            let mut read = [0; READ];
            let mut read = ReadBuf::new(&mut read);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            if let Err(violation) = this.frames.screen(read.filled(), &this.guard) {
                this.guard.violated(violation);
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FilteredStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_cut_off(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.unless_cut_off(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.unless_cut_off(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut_down = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.unless_cut_off(cx, shut_down)
    }
}
