//! How long a client may take between its requests, and for the head of one: two limits of time, where hyper has one for both.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

/// The limits of time.
#[derive(Clone, Copy)]
pub struct Timeouts {
    /// From the end of an answer, or from the start of the connection, to the first byte of a request.
    pub keep_alive: Duration,
    /// From there to the end of the head.
    pub head: Duration,
}

/// What a connection is doing.
#[derive(Clone, Copy)]
enum Phase {
    /// Waiting for a request, since then.
    Idle(Instant),
    /// Reading the head of a request, since then.
    Head(Instant),
    /// Answering a request. Other limits apply.
    Busy,
    /// It is a websocket, and no longer ours.
    Upgraded,
}

/// The phase of a connection, for all who take part in it.
#[derive(Clone)]
pub struct Activity(Arc<Mutex<Phase>>);

impl Activity {
    /// A connection that has just been opened.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Phase::Idle(Instant::now()))))
    }

    /// A request begins. It is answered when the guard is gone.
    pub fn begin(&self) -> InFlight {
        *self.phase() = Phase::Busy;
        InFlight(self.clone())
    }

    /// The connection becomes a websocket.
    pub fn upgrade(&self) {
        *self.phase() = Phase::Upgraded;
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being answered.
pub struct InFlight(Activity);

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut phase = self.0.phase();
        if matches!(*phase, Phase::Busy) {
            *phase = Phase::Idle(Instant::now());
        }
    }
}

/// The body of an answer, which keeps its request in flight until it has been sent.
pub struct Answering<B> {
    body: B,
    _request: InFlight,
}

impl<B> Answering<B> {
    /// The same body.
    pub fn new(body: B, request: InFlight) -> Self {
        Self { body, _request: request }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answering<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that ends for its reader when a limit of time has passed.
pub struct Timed<S> {
    stream: S,
    timeouts: Timeouts,
    activity: Activity,
    timer: Pin<Box<Sleep>>,
    has_ended: bool,
}

impl<S: Pending> Timed<S> {
    /// The same stream, with these limits.
    pub fn new(stream: S, timeouts: Timeouts, activity: Activity) -> Self {
        let timer = Box::pin(sleep_until(Instant::now() + timeouts.keep_alive));
        Self { stream, timeouts, activity, timer, has_ended: false }
    }

    fn deadline(&self) -> Option<Instant> {
        match *self.activity.phase() {
            Phase::Idle(since) => Some(since + self.timeouts.keep_alive),
            Phase::Head(since) => Some(since + self.timeouts.head),
            Phase::Busy | Phase::Upgraded => None,
        }
    }

    /// Notes that bytes of a request have come in.
    fn has_begun(&self) {
        let mut phase = self.activity.phase();
        if matches!(*phase, Phase::Idle(_)) {
            *phase = Phase::Head(Instant::now());
        }
    }

    /// Whether the limit of time that applies now has passed. Where none has, the task is woken when one may have.
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> bool {
        if matches!(*self.activity.phase(), Phase::Upgraded) {
            return false;
        }
        loop {
            let deadline = self.deadline();
            // The timer runs while a request is answered, too: hyper may not read again between that and the next request.
            let wake = deadline.unwrap_or_else(|| Instant::now() + self.timeouts.keep_alive);
            // Left where it is while it is early enough: with every request there is another deadline, and nearly none is reached.
            if self.timer.deadline() > wake {
                self.timer.as_mut().reset(wake);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            if deadline.is_none_or(|deadline| Instant::now() < deadline) {
                self.timer.as_mut().reset(wake);
            } else if matches!(*self.activity.phase(), Phase::Idle(_)) && self.stream.has_pending_bytes() {
                // They came in after the last read, and the runtime has yet to tell: a request that would be lost.
                self.has_begun();
            } else {
                return true;
            }
        }
    }

    fn noted(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(_))) {
            // The end of a large answer is still on its way when its body is gone.
            let mut phase = self.activity.phase();
            if let Phase::Idle(since) = &mut *phase {
                *since = Instant::now();
            }
        }
        written
    }
}

/// A stream that knows whether there are bytes to read, without waiting and without reading them.
pub trait Pending {
    /// Whether there are.
    fn has_pending_bytes(&self) -> bool;
}

impl Pending for TcpStream {
    fn has_pending_bytes(&self) -> bool {
        // Asks the system, where the runtime would answer what it has heard last.
        SockRef::from(self).peek(&mut [MaybeUninit::uninit()]).is_ok_and(|bytes| bytes > 0)
    }
}

impl<S: AsyncRead + Pending + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.has_ended {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if polled.is_ready() {
            if buffer.filled().len() > before {
                self.has_begun();
            }
            return polled;
        }
        if self.poll_expired(cx) {
            self.has_ended = true;
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Pending + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.noted(written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const TIMEOUTS: Timeouts = Timeouts { keep_alive: Duration::from_millis(20), head: Duration::from_millis(30) };

    /// Half of a pipe, and whether the system has bytes of which the runtime does not know yet.
    struct Half(DuplexStream, bool);

    impl Pending for Half {
        fn has_pending_bytes(&self) -> bool {
            self.1
        }
    }

    impl AsyncRead for Half {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    fn timed(pending: bool) -> (Timed<Half>, Activity, DuplexStream) {
        let (ours, theirs) = duplex(64);
        let activity = Activity::new();
        (Timed::new(Half(ours, pending), TIMEOUTS, activity.clone()), activity, theirs)
    }

    #[tokio::test]
    async fn a_silent_connection_ends_after_the_time_between_requests() {
        let start = Instant::now();
        let (mut stream, activity, _theirs) = timed(false);
        drop(activity.begin());
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        assert!(start.elapsed() >= TIMEOUTS.keep_alive);
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "it stays ended");
    }

    #[tokio::test]
    async fn a_connection_ends_that_was_last_read_while_a_request_was_answered() {
        let (mut stream, activity, _theirs) = timed(false);
        let request = activity.begin();
        let reading = tokio::spawn(async move { stream.read(&mut [0]).await });
        // Polled once now, and from then on only when it is woken.
        tokio::task::yield_now().await;
        drop(request);
        assert_eq!(reading.await.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn the_time_for_a_head_begins_with_its_first_byte() {
        let (mut stream, _, mut theirs) = timed(false);
        theirs.write_all(b"GET").await.unwrap();
        let before = Instant::now();
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 3);
        let deadline = stream.deadline();
        assert!(deadline >= Some(before + TIMEOUTS.head));
        theirs.write_all(b" /").await.unwrap();
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 2);
        assert_eq!(stream.deadline(), deadline, "more bytes give no more time");
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 0);
        assert!(before.elapsed() >= TIMEOUTS.head);
    }

    #[tokio::test]
    async fn what_has_come_in_at_the_last_moment_is_waited_for() {
        let start = Instant::now();
        let (mut stream, _, _theirs) = timed(true);
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 0);
        assert!(start.elapsed() >= TIMEOUTS.keep_alive + TIMEOUTS.head, "as for a head");
    }

    #[tokio::test]
    async fn neither_an_answer_under_way_nor_a_websocket_has_a_limit() {
        let (stream, activity, _theirs) = timed(false);
        let request = activity.begin();
        assert_eq!(stream.deadline(), None);
        let before = Instant::now();
        drop(request);
        assert!(stream.deadline() >= Some(before + TIMEOUTS.keep_alive), "counted from the end of the answer");
        let request = activity.begin();
        activity.upgrade();
        drop(request);
        assert_eq!(stream.deadline(), None);
    }
}
