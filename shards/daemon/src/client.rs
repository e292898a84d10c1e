//! The command line's side of the admin socket: one request over HTTP/1.1, one answer, an end.
//!
//! Invariants: an answer is waited for no longer than [`PATIENCE`], or than the command says, and read no further than [`ANSWER_BYTES_MAX`]; whatever
//! goes wrong is told with the socket's path and with what to do. It refuses to talk to a server of another version of the
//! API, and to start a server.

use crate::check;
use crate::cli::RunningServer;
use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use ringpost_admin::api;
use ringpost_config::Config;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long an answer may take: the server itself gives up a little earlier, and says why.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of an answer: a million bans.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The socket of a server with this config whose state directory is there; nothing if it is off.
pub(crate) fn socket_path(config: &Config, state_dir: &Path) -> Option<PathBuf> {
    config.admin.socket.as_ref().map(|socket| state_dir.join(socket))
}

/// A running server, or so it is hoped.
pub(crate) struct Client {
    socket: PathBuf,
    /// What may be wrong with the path, in words; may be empty.
    doubt: &'static str,
    /// How long an answer may take.
    patience: Duration,
}

/// An answer as it came.
struct Answer {
    status: StatusCode,
    /// The version of the API, if what answered knows of one.
    version: Option<String>,
    body: Bytes,
}

impl Client {
    /// Finds the socket of the server that is meant.
    pub(crate) fn find(server: &RunningServer) -> Result<Self> {
        if let Some(socket) = &server.socket {
            return Ok(Self { socket: socket.clone(), doubt: "", patience: PATIENCE });
        }
        let config = check::load_without_credentials(&server.config)
            .context("the config does not tell the server's socket (--socket PATH names it without a config)")?;
        let state_dir = Path::new(&config.server.state_dir);
        let Some(socket) = socket_path(&config, state_dir) else {
            bail!(
                "a server with this config has no admin socket: set one under [admin] and restart it, or name another \
                 with --socket PATH"
            );
        };
        let doubt = match (socket.is_absolute(), &server.config.config) {
            (false, _) => "; server.state_dir is relative: are you in the directory that the server was started in?",
            (true, None) => "; no config file is given: these are the embedded defaults",
            (true, Some(_)) => "",
        };
        Ok(Self { socket, doubt, patience: PATIENCE })
    }

    /// Waits so long for each answer, in place of [`PATIENCE`]: what is asked for takes its time, or is looked at by someone
    /// who would rather see that nothing comes.
    pub(crate) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Asks for what is at a path.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.read(self.ask(Method::GET, path, Bytes::new())?)
    }

    /// Orders something, with or without particulars.
    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, body: Option<&impl Serialize>) -> Result<T> {
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        self.read(self.ask(Method::POST, path, body.into())?)
    }

    /// Puts something in the place of what is there.
    pub(crate) fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.read(self.ask(Method::PUT, path, serde_json::to_vec(body)?.into())?)
    }

    /// Has something taken away.
    pub(crate) fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.read(self.ask(Method::DELETE, path, Bytes::new())?)
    }

    /// Asks for bytes of any number, and hands them on as they come. `take` has seen some of them if this fails later.
    pub(crate) fn download(&self, path: &str, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let request = request(Method::GET, path, Bytes::new())?;
        runtime()?.block_on(async {
            let opened = timeout(self.patience, self.open(request)).await;
            let (response, driver) = opened.unwrap_or_else(|_| Err(self.stuck()))?;
            if !response.status().is_success() {
                let refused =
                    timeout(self.patience, self.whole(response)).await.unwrap_or_else(|_| Err(self.stuck()))?;
                return self.read::<serde_json::Value>(refused).map(drop);
            }
            let mut body = response.into_body();
            // Each piece has as long as an answer: there may be many.
            while let Some(frame) = timeout(self.patience, body.frame()).await.map_err(|_| self.stuck())? {
                let frame = frame.map_err(|error| self.cut_short(&error))?;
                frame.data_ref().map_or(Ok(()), |piece| take(piece))?;
            }
            driver.abort();
            Ok(())
        })
    }

    fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Answer> {
        let request = request(method, path, body)?;
        let answer = runtime()?.block_on(async { timeout(self.patience, self.exchange(request)).await });
        answer.unwrap_or_else(|_| Err(self.stuck()))
    }

    fn stuck(&self) -> anyhow::Error {
        let socket = self.socket.display();
        let seconds = self.patience.as_secs_f32();
        anyhow!("the server did not answer on {socket} within {seconds} s: it is stuck, or its machine is very busy")
    }

    fn cut_short(&self, error: &dyn Display) -> anyhow::Error {
        anyhow!("the answer on {} breaks off or is too large: {error}", self.socket.display())
    }

    /// Sends a request; gives the answer as it begins, and what moves its bytes.
    async fn open(&self, request: Request<Full<Bytes>>) -> Result<(Response<Incoming>, JoinHandle<()>)> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(error))?;
        let broken = |error: hyper::Error| self.broken(error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // What goes wrong with the connection is told by the request too.
        let driver = tokio::spawn(async move { drop(connection.await) });
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok((response, driver))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let (response, driver) = self.open(request).await?;
        let answer = self.whole(response).await;
        driver.abort();
        answer
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Answer> {
        let (head, body) = response.into_parts();
        let version = head.headers.get(api::VERSION_HEADER).and_then(|version| version.to_str().ok());
        let version = version.map(str::to_owned);
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| self.cut_short(&error))?;
        Ok(Answer { status: head.status, version, body: body.to_bytes() })
    }

    fn read<T: DeserializeOwned>(&self, answer: Answer) -> Result<T> {
        let socket = self.socket.display();
        match answer.version.map(|version| version.parse::<u32>()) {
            Some(Ok(api::VERSION)) => {}
            Some(Ok(other)) => bail!(
                "the server on {socket} speaks version {other} of the admin API, and this command version {}: use the \
                 `ringpost` that the server was started from",
                api::VERSION
            ),
            Some(Err(_)) | None => bail!("what answers on {socket} is no ringpost server"),
        }
        if answer.status.is_success() {
            return serde_json::from_slice(&answer.body)
                .with_context(|| format!("the answer on {socket} is not understood"));
        }
        match api::error_of(&answer.body) {
            Some(error) => Err(anyhow!(error)),
            None => Err(anyhow!("the server on {socket} answered {}", answer.status)),
        }
    }

    fn unreachable(&self, error: io::Error) -> anyhow::Error {
        let (socket, doubt) = (self.socket.display(), self.doubt);
        let advice = "start one with `ringpost serve`, or name another with --config FILE or --socket PATH";
        match error.kind() {
            io::ErrorKind::NotFound => anyhow!("no server is running: there is no socket {socket}{doubt}; {advice}"),
            io::ErrorKind::ConnectionRefused => {
                anyhow!("no server is running: nobody listens on {socket}, which a server left behind; {advice}")
            }
            io::ErrorKind::PermissionDenied => anyhow!(
                "not allowed to use {socket}: root and the user that the server runs as are, and whom admin.operators \
                 and admin.readers name; try it with sudo"
            ),
            io::ErrorKind::WouldBlock => anyhow!("the server on {socket} has too many clients waiting; try again"),
            _ => anyhow!(error).context(format!("the server can't be reached on {socket}")),
        }
    }

    fn broken(&self, error: hyper::Error) -> anyhow::Error {
        let socket = self.socket.display();
        let cause = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        let cut = cause
            .is_some_and(|cause| matches!(cause.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset));
        if cut || error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            return anyhow!(
                "the server on {socket} closed the connection without an answer: it is stopping, or runs as another user \
                 (it answers that one, root, and whom admin.operators and admin.readers name)"
            );
        }
        anyhow!(error).context(format!("the server on {socket} is not understood"))
    }
}

fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("no event loop for the admin socket")
}

fn request(method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "ringpost")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(body))?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use tempfile::TempDir;

    fn at(socket: PathBuf) -> Client {
        Client { socket, doubt: "; perhaps", patience: PATIENCE }
    }

    /// What the client makes of a server that reads the request and says this. Tells the request too.
    fn told(answer: &str) -> (Result<Value>, String) {
        told_to(answer, |client| client.post("/api/v1/bans", Some(&"body")))
    }

    /// The same of what is asked by `ask`.
    fn told_to<T>(answer: &str, ask: impl FnOnce(Client) -> T) -> (T, String) {
        let folder = TempDir::new().expect("a folder");
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).expect("bound");
        std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).expect("a request");
                stream.write_all(answer.as_bytes()).expect("sent");
                String::from_utf8(request[..read].to_vec()).expect("text")
            });
            let result = ask(at(socket));
            (result, server.join().expect("served"))
        })
    }

    /// Checks that the error has all these words.
    fn check<T>(result: Result<T>, words: &[&str]) {
        let error = format!("{:#}", result.err().expect("an error"));
        assert!(words.iter().all(|word| error.contains(word)), "{words:?} in {error}");
    }

    fn answer(head: &str, body: &str) -> String {
        format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn a_request_and_its_answer() {
        let (result, request) = told(&answer("200 OK\r\nringpost-api: 1", "[1]"));
        assert_eq!(result.expect("an answer"), serde_json::json!([1]));
        assert!(request.starts_with("POST /api/v1/bans HTTP/1.1\r\n"), "{request}");
        assert!(request.to_lowercase().contains("content-length: 6\r\n") && request.ends_with("\"body\""), "{request}");
        let put = |client: Client| client.put::<Value>("/api/v1/log/levels", &"body");
        let (result, request) = told_to(&answer("200 OK\r\nringpost-api: 1", "{}"), put);
        assert_eq!(result.expect("an answer"), serde_json::json!({}));
        assert!(request.starts_with("PUT /api/v1/log/levels HTTP/1.1\r\n"), "{request}");
    }

    #[test]
    fn bytes_are_handed_on_as_they_come() {
        let downloaded = |answer: &str| {
            let mut bytes = Vec::new();
            let (result, request) = told_to(answer, |client| {
                client.download("/m", &mut |piece| {
                    bytes.extend_from_slice(piece);
                    Ok(())
                })
            });
            assert!(request.starts_with("GET /m HTTP/1.1\r\n"), "{request}");
            (result, bytes)
        };
        let (result, bytes) = downloaded(&answer("200 OK\r\nringpost-api: 1", "Subject: x\r\n\0"));
        result.expect("all of it");
        assert_eq!(bytes, b"Subject: x\r\n\0");
        let (result, bytes) = downloaded("HTTP/1.1 200 OK\r\nringpost-api: 1\r\nContent-Length: 9\r\n\r\nhalf");
        check(result, &["breaks off"]);
        assert!(b"half".starts_with(&bytes));
        let refusal = answer("404 Not Found\r\nringpost-api: 1", r#"{"error":"there is no message 1"}"#);
        check(downloaded(&refusal).0, &["there is no message 1"]);
        let full = answer("200 OK\r\nringpost-api: 1", "x");
        let (result, _) = told_to(&full, |client| client.download("/m", &mut |_| anyhow::bail!("the disk is full")));
        check(result, &["the disk is full"]);
    }

    #[test]
    fn answers_that_are_errors() {
        let refusal = answer("409 Conflict\r\nringpost-api: 1", r#"{"error":"the proxy is in it"}"#);
        check(told(&refusal).0, &["the proxy is in it"]);
        check(told(&answer("404 Not Found\r\nringpost-api: 1", "no such path")).0, &["404"]);
        check(told(&answer("200 OK\r\nringpost-api: 2", "[]")).0, &["version 2", "version 1", "use the `ringpost`"]);
        check(told(&answer("200 OK", "[]")).0, &["no ringpost server"]);
        check(told(&answer("200 OK\r\nringpost-api: 1", "[")).0, &["not understood"]);
        check(told("HTTP/1.1 200 OK\r\nringpost-api: 1\r\nContent-Length: 9\r\n\r\n[").0, &["breaks off"]);
        check(told("220 mx.example.org ESMTP\r\n").0, &["not understood"]);
        check(told("").0, &["closed the connection", "another user"]);
    }

    #[test]
    fn servers_that_are_not_there() {
        let folder = TempDir::new().expect("a folder");
        let missing = folder.path().join("missing");
        let place = missing.display().to_string();
        check(
            at(missing).get::<Value>("/"),
            &["no server is running", &place, "; perhaps", "ringpost serve", "--socket"],
        );
        let left = folder.path().join("left");
        drop(UnixListener::bind(&left).expect("bound"));
        check(at(left).get::<Value>("/"), &["no server is running", "left behind"]);
        check(at(folder.path().join("x".repeat(200))).get::<Value>("/"), &["can't be reached", "xxx"]);
    }

    #[test]
    fn a_server_that_is_stuck() {
        let folder = TempDir::new().expect("a folder");
        let socket = folder.path().join("s");
        let _listening = UnixListener::bind(&socket).expect("bound");
        let client = at(socket).with_patience(Duration::from_millis(50));
        check(client.get::<Value>("/"), &["did not answer", "within 0.05 s"]);
    }

    #[test]
    fn the_socket_is_found_in_the_config() {
        let mut config = Config::default();
        for (socket, expected) in [
            (Some("ringpost.sock"), Some("/var/lib/ringpost/ringpost.sock")),
            (Some("/run/ringpost.sock"), Some("/run/ringpost.sock")),
            (None, None),
        ] {
            config.admin.socket = socket.map(str::to_owned);
            assert_eq!(socket_path(&config, "/var/lib/ringpost".as_ref()).as_deref(), expected.map(Path::new));
        }
    }
}
