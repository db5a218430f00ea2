//! A small PostgreSQL client over a blocking socket that keeps every frame as it came: bytes → [`Frame`]s and back.
//! Never interprets what it can compare; speaks trust and cleartext password logins only.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longer than anything a test waits for, also on a busy machine: a hang becomes a failure.
const READ_TIMEOUT: Duration = Duration::from_secs(300);

/// One backend message.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Frame {
    /// The value of field `code` of an ErrorResponse or NoticeResponse.
    pub fn field(&self, code: u8) -> Option<String> {
        let mut rest = &self.body[..];
        while let Some((&kind, tail)) = rest.split_first() {
            if kind == 0 {
                return None;
            }
            let end = tail.iter().position(|&byte| byte == 0)?;
            if kind == code {
                return Some(String::from_utf8_lossy(&tail[..end]).into_owned());
            }
            rest = &tail[end + 1..];
        }
        None
    }

    /// The values of a DataRow.
    pub fn values(&self) -> Vec<Option<Vec<u8>>> {
        assert_eq!(self.tag, b'D');
        let mut rest = &self.body[2..];
        let mut values = Vec::new();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let length = i32::from_be_bytes(*length);
            let width = usize::try_from(length).unwrap_or(0);
            values.push((length >= 0).then(|| tail[..width].to_vec()));
            rest = &tail[width..];
        }
        values
    }

    /// The values of a DataRow in text format.
    pub fn texts(&self) -> Vec<Option<String>> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        self.values().into_iter().map(|v| v.map(text)).collect()
    }

    /// The tag of a CommandComplete.
    pub fn command(&self) -> String {
        assert_eq!(self.tag, b'C');
        String::from_utf8_lossy(&self.body[..self.body.len() - 1]).into_owned()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            char::from(self.tag),
            self.body[..self.body.len().min(600)].escape_ascii()
        )
    }
}

/// Frontend messages as bytes, to be sent in any order and any number at once.
pub mod message {
    /// A typed message of that body.
    pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = i32::try_from(body.len() + 4).unwrap();
        let mut bytes = vec![tag];
        bytes.extend(length.to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn cstr(text: &str) -> Vec<u8> {
        [text.as_bytes(), b"\0"].concat()
    }

    fn count(n: usize) -> [u8; 2] {
        u16::try_from(n).unwrap().to_be_bytes()
    }

    pub fn query(sql: &str) -> Vec<u8> {
        frame(b'Q', &cstr(sql))
    }

    pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
        let mut body = [cstr(name), cstr(sql)].concat();
        body.extend(count(types.len()));
        for oid in types {
            body.extend(oid.to_be_bytes());
        }
        frame(b'P', &body)
    }

    /// Parameters in the given formats (none: text), results in the given formats.
    pub fn bind(
        portal: &str,
        statement: &str,
        formats: &[u16],
        parameters: &[Option<&[u8]>],
        results: &[u16],
    ) -> Vec<u8> {
        let mut body = [cstr(portal), cstr(statement)].concat();
        body.extend(count(formats.len()));
        for format in formats {
            body.extend(format.to_be_bytes());
        }
        body.extend(count(parameters.len()));
        for parameter in parameters {
            match parameter {
                None => body.extend((-1i32).to_be_bytes()),
                Some(value) => {
                    body.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
                    body.extend(*value);
                }
            }
        }
        body.extend(count(results.len()));
        for format in results {
            body.extend(format.to_be_bytes());
        }
        frame(b'B', &body)
    }

    /// `kind` is `S` (statement) or `P` (portal).
    pub fn describe(kind: u8, name: &str) -> Vec<u8> {
        frame(b'D', &[&[kind][..], &cstr(name)].concat())
    }

    /// `kind` is `S` (statement) or `P` (portal).
    pub fn close(kind: u8, name: &str) -> Vec<u8> {
        frame(b'C', &[&[kind][..], &cstr(name)].concat())
    }

    /// `max_rows` 0 is all of them.
    pub fn execute(portal: &str, max_rows: i32) -> Vec<u8> {
        frame(b'E', &[&cstr(portal)[..], &max_rows.to_be_bytes()].concat())
    }

    pub fn sync() -> Vec<u8> {
        frame(b'S', &[])
    }

    pub fn flush() -> Vec<u8> {
        frame(b'H', &[])
    }

    pub fn copy_data(data: &[u8]) -> Vec<u8> {
        frame(b'd', data)
    }

    pub fn copy_done() -> Vec<u8> {
        frame(b'c', &[])
    }

    pub fn copy_fail(reason: &str) -> Vec<u8> {
        frame(b'f', &cstr(reason))
    }

    /// FunctionCall with text arguments and a text result.
    pub fn function_call(oid: u32, arguments: &[&str]) -> Vec<u8> {
        let mut body = oid.to_be_bytes().to_vec();
        body.extend(count(0));
        body.extend(count(arguments.len()));
        for argument in arguments {
            body.extend(i32::try_from(argument.len()).unwrap().to_be_bytes());
            body.extend(argument.as_bytes());
        }
        body.extend(count(0));
        frame(b'F', &body)
    }

    /// The unnamed statement and portal, described, executed and synced: what a driver sends for one query.
    pub fn extended(sql: &str, parameters: &[Option<&[u8]>], results: &[u16]) -> Vec<u8> {
        [
            parse("", sql, &[]),
            describe(b'S', ""),
            bind("", "", &[], parameters, results),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]
        .concat()
    }
}

/// A connection.
pub struct Wire {
    stream: TcpStream,
    port: u16,
    /// What came before the first ReadyForQuery.
    pub startup: Vec<Frame>,
}

impl Wire {
    /// Connects to 127.0.0.1; an ErrorResponse during start-up is `Err`.
    pub fn connect(port: u16, parameters: &[(&str, &str)], password: &str) -> Result<Self, Frame> {
        Self::reach(port, parameters, password).expect("a reply to the start-up message")
    }

    /// The same where the server may not be there, or may go.
    pub fn reach(
        port: u16,
        parameters: &[(&str, &str)],
        password: &str,
    ) -> io::Result<Result<Self, Frame>> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_nodelay(true)?;
        let mut wire = Self {
            stream,
            port,
            startup: Vec::new(),
        };
        let mut body = 196_608i32.to_be_bytes().to_vec();
        for (name, value) in parameters {
            for part in [name, value] {
                body.extend(part.as_bytes());
                body.push(0);
            }
        }
        body.push(0);
        let length = i32::try_from(body.len() + 4).unwrap();
        wire.stream
            .write_all(&[&length.to_be_bytes()[..], &body].concat())?;
        loop {
            let frame = wire.read()?;
            match frame.tag {
                b'E' => return Ok(Err(frame)),
                b'R' if frame.body == [0, 0, 0, 3] => {
                    let password = [password.as_bytes(), b"\0"].concat();
                    wire.stream.write_all(&message::frame(b'p', &password))?;
                }
                _ => {}
            }
            let ready = frame.tag == b'Z';
            wire.startup.push(frame);
            if ready {
                return Ok(Ok(wire));
            }
        }
    }

    /// Logs in as that user without a password.
    pub fn login(port: u16, user: &str, database: &str) -> Self {
        Self::connect(port, &[("user", user), ("database", database)], "")
            .unwrap_or_else(|error| panic!("login as {user} to {database}: {error:?}"))
    }

    /// The body of BackendKeyData.
    pub fn key(&self) -> &[u8] {
        let key = self.startup.iter().find(|frame| frame.tag == b'K');
        &key.expect("a BackendKeyData").body
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        u32::from_be_bytes(*self.key().first_chunk::<4>().unwrap())
    }

    /// Sends a CancelRequest for this session to the same port, and waits until it was taken.
    pub fn cancel(&self) {
        cancel(self.port, self.key());
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends while another thread reads: for what is larger than the sockets' buffers.
    pub fn send_beside(&self, bytes: Vec<u8>) -> std::thread::JoinHandle<io::Result<()>> {
        let mut stream = self.stream.try_clone().unwrap();
        std::thread::spawn(move || stream.write_all(&bytes))
    }

    /// The next frame; an error is the end of the connection, or a minute of silence.
    pub fn read(&mut self) -> io::Result<Frame> {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header)?;
        let length = u32::from_be_bytes(*header.last_chunk::<4>().unwrap());
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        self.stream.read_exact(&mut body)?;
        Ok(Frame {
            tag: header[0],
            body,
        })
    }

    /// Frames up to and including the first of that tag.
    pub fn read_until(&mut self, tag: u8) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            match self.read() {
                Ok(frame) => {
                    let last = frame.tag == tag;
                    frames.push(frame);
                    if last {
                        return frames;
                    }
                }
                Err(error) => panic!(
                    "{error} while waiting for {} after {frames:?}",
                    char::from(tag)
                ),
            }
        }
    }

    /// Sends and reads up to ReadyForQuery.
    pub fn roundtrip(&mut self, bytes: &[u8]) -> Vec<Frame> {
        let sending = (bytes.len() > 60_000).then(|| self.send_beside(bytes.to_vec()));
        if sending.is_none() {
            self.send(bytes);
        }
        let frames = self.read_until(b'Z');
        if let Some(sending) = sending {
            sending.join().unwrap().unwrap();
        }
        frames
    }

    /// Runs a simple query and returns its rows as text; an error panics with its message.
    pub fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.try_rows(sql)
            .unwrap_or_else(|error| panic!("{}: {error:?}", &sql[..sql.len().min(300)]))
    }

    /// Runs a simple query and returns its rows as text, or the ErrorResponse.
    pub fn try_rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Frame> {
        let frames = self.roundtrip(&message::query(sql));
        if let Some(error) = frames.iter().find(|frame| frame.tag == b'E') {
            return Err(error.clone());
        }
        let rows = frames.iter().filter(|frame| frame.tag == b'D');
        Ok(rows.map(Frame::texts).collect())
    }

    /// Runs a simple query where the connection may break: its error's SQLSTATE, if it gives one.
    pub fn attempt(&mut self, sql: &str) -> io::Result<Result<(), String>> {
        self.stream.write_all(&message::query(sql))?;
        let mut result = Ok(());
        loop {
            let frame = self.read()?;
            match frame.tag {
                b'Z' => return Ok(result),
                b'E' => result = Err(frame.field(b'C').unwrap_or_default()),
                _ => {}
            }
        }
    }

    /// The first column of the rows where the connection may break, or why there are none.
    pub fn try_column(&mut self, sql: &str) -> Result<Vec<String>, String> {
        let sent = self.stream.write_all(&message::query(sql));
        sent.map_err(|error| error.to_string())?;
        let mut rows = Ok(Vec::new());
        loop {
            let frame = self.read().map_err(|error| error.to_string())?;
            match frame.tag {
                b'Z' => return rows,
                b'E' => rows = Err(format!("{frame:?}")),
                b'D' => {
                    if let (Ok(rows), Some(first)) = (&mut rows, frame.texts().into_iter().next()) {
                        rows.push(first.unwrap_or_default());
                    }
                }
                _ => {}
            }
        }
    }

    /// The first column of the rows, NULL as an empty text.
    pub fn column(&mut self, sql: &str) -> Vec<String> {
        let first = |row: Vec<Option<String>>| row.into_iter().next().flatten().unwrap_or_default();
        self.rows(sql).into_iter().map(first).collect()
    }

    /// The first column of the only row.
    pub fn value(&mut self, sql: &str) -> String {
        let values = self.column(sql);
        assert_eq!(values.len(), 1, "{sql}");
        values.into_iter().next().unwrap()
    }

    /// Runs a statement that must succeed.
    pub fn run(&mut self, sql: &str) {
        self.rows(sql);
    }
}

/// Sends a CancelRequest with that BackendKeyData, and waits until the server has taken it.
pub fn cancel(port: u16, key: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = i32::try_from(8 + key.len()).unwrap();
    let request = [&length.to_be_bytes()[..], &80_877_102i32.to_be_bytes(), key];
    stream.write_all(&request.concat()).unwrap();
    stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    assert_eq!(
        stream.read(&mut [0; 1]).unwrap(),
        0,
        "no answer to a cancel"
    );
}

/// Sends the bytes, answers CopyInResponse with `copy_in`, and reads to the `ready`th ReadyForQuery.
pub fn exchange(wire: &mut Wire, bytes: &[u8], ready: usize, copy_in: &[u8]) -> Vec<Frame> {
    let extended = bytes[0] != b'Q';
    let sending = wire.send_beside(bytes.to_vec());
    let mut frames = Vec::new();
    let mut seen = 0;
    while seen < ready {
        let frame = wire.read().unwrap_or_else(|error| {
            panic!(
                "{error} after {frames:?}, sent {}",
                bytes[..bytes.len().min(300)].escape_ascii()
            )
        });
        match frame.tag {
            b'Z' => seen += 1,
            b'G' => {
                let mut answer = message::copy_data(copy_in);
                answer.extend(message::copy_done());
                if extended {
                    answer.extend(message::sync()); // the one sent before was ignored in copy-in mode
                }
                wire.send(&answer);
            }
            _ => {}
        }
        frames.push(frame);
    }
    sending.join().unwrap().unwrap();
    frames
}
