//! The messages of protocol 3 that Rektor reads into or makes itself. Pure; a body that does not follow the format is `None`.

use bytes::{BufMut, Bytes, BytesMut};

/// Reads a body from its beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body<'a>(pub(super) &'a [u8]);

impl<'a> Body<'a> {
    /// The next bytes.
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A string that ends with a zero byte, without it.
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let taken = self.0.get(..end)?;
        self.0 = self.0.get(end + 1..)?;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|b| u16::from_be_bytes(*b))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4)?.first_chunk().map(|b| u32::from_be_bytes(*b))
    }

    pub(super) fn i32(&mut self) -> Option<i32> {
        self.take(4)?.first_chunk().map(|b| i32::from_be_bytes(*b))
    }
}

/// Appends a frame whose body `write` makes.
pub(super) fn frame(out: &mut BytesMut, tag: u8, write: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let start = out.len();
    out.put_u32(0);
    write(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX); // bodies are bounded far below
    if let Some(slot) = out.get_mut(start..start + 4) {
        slot.copy_from_slice(&length.to_be_bytes());
    }
}

fn put_string(out: &mut BytesMut, text: &[u8]) {
    out.put_slice(text);
    out.put_u8(0);
}

/// `Parse`
pub(super) fn parse(out: &mut BytesMut, name: &[u8], sql: &[u8], types: &[u32]) {
    frame(out, b'P', |out| {
        put_string(out, name);
        put_string(out, sql);
        out.put_u16(u16::try_from(types.len()).unwrap_or(u16::MAX));
        types.iter().for_each(|oid| out.put_u32(*oid));
    });
}

/// `Bind` with text parameters and text results.
pub(super) fn bind_text(out: &mut BytesMut, portal: &[u8], statement: &[u8], values: &[&[u8]]) {
    frame(out, b'B', |out| {
        put_string(out, portal);
        put_string(out, statement);
        out.put_u16(0);
        out.put_u16(u16::try_from(values.len()).unwrap_or(u16::MAX));
        for value in values {
            out.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
            out.put_slice(value);
        }
        out.put_u16(0);
    });
}

/// `Bind` with binary parameters and text results.
pub(super) fn bind_binary(out: &mut BytesMut, portal: &[u8], statement: &[u8], values: &[Bytes]) {
    frame(out, b'B', |out| {
        put_string(out, portal);
        put_string(out, statement);
        out.put_u16(1);
        out.put_u16(1);
        out.put_u16(u16::try_from(values.len()).unwrap_or(u16::MAX));
        for value in values {
            out.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
            out.put_slice(value);
        }
        out.put_u16(0);
    });
}

/// `Describe` of a statement (`S`) or portal (`P`).
pub(super) fn describe(out: &mut BytesMut, kind: u8, name: &[u8]) {
    frame(out, b'D', |out| {
        out.put_u8(kind);
        put_string(out, name);
    });
}

/// `Execute`; 0 rows means all.
pub(super) fn execute(out: &mut BytesMut, portal: &[u8], max_rows: i32) {
    frame(out, b'E', |out| {
        put_string(out, portal);
        out.put_i32(max_rows);
    });
}

/// `Close` of a statement (`S`) or portal (`P`).
pub(super) fn close(out: &mut BytesMut, kind: u8, name: &[u8]) {
    frame(out, b'C', |out| {
        out.put_u8(kind);
        put_string(out, name);
    });
}

/// `Query`
pub(super) fn query(out: &mut BytesMut, sql: &[u8]) {
    frame(out, b'Q', |out| put_string(out, sql));
}

/// `Flush`
pub(super) fn flush(out: &mut BytesMut) {
    frame(out, b'H', |_| {});
}

/// `Sync`
pub(super) fn sync(out: &mut BytesMut) {
    frame(out, b'S', |_| {});
}

/// `Terminate`
pub(super) fn terminate(out: &mut BytesMut) {
    frame(out, b'X', |_| {});
}

/// `CommandComplete`
pub(super) fn command_complete(out: &mut BytesMut, tag: &[u8]) {
    frame(out, b'C', |out| put_string(out, tag));
}

/// `DataRow` of one text value.
pub(super) fn data_row(out: &mut BytesMut, value: &[u8]) {
    frame(out, b'D', |out| {
        out.put_u16(1);
        out.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        out.put_slice(value);
    });
}

/// `PortalSuspended`
pub(super) fn portal_suspended(out: &mut BytesMut) {
    frame(out, b's', |_| {});
}

/// An error that Rektor reports itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report<'a> {
    /// `ERROR` or `FATAL`.
    pub(super) severity: &'static str,
    pub(super) sqlstate: &'static str,
    pub(super) message: &'a str,
    pub(super) hint: Option<&'a str>,
}

/// `ErrorResponse`
pub(super) fn error(out: &mut BytesMut, report: Report<'_>) {
    frame(out, b'E', |out| {
        for (field, value) in [
            (b'S', Some(report.severity)),
            (b'V', Some(report.severity)),
            (b'C', Some(report.sqlstate)),
            (b'M', Some(report.message)),
            (b'H', report.hint),
        ] {
            if let Some(value) = value {
                out.put_u8(field);
                put_string(out, value.as_bytes());
            }
        }
        out.put_u8(0);
    });
}

/// The SQLSTATE of an `ErrorResponse`'s body.
pub(super) fn sqlstate(body: &[u8]) -> Option<&[u8]> {
    error_field(body, b'C')
}

/// A field of an `ErrorResponse`'s or `NoticeResponse`'s body.
pub(super) fn error_field(body: &[u8], field: u8) -> Option<&[u8]> {
    let mut body = Body(body);
    loop {
        let code = body.byte().filter(|code| *code != 0)?;
        let value = body.string()?;
        if code == field {
            return Some(value);
        }
    }
}

/// `ErrorResponse` of this body without its CONTEXT.
pub(super) fn without_context(out: &mut BytesMut, body: &[u8]) {
    frame(out, b'E', |out| {
        let mut rest = Body(body);
        while let Some(field) = rest.byte().filter(|field| *field != 0) {
            let Some(value) = rest.string() else { break };
            if field != b'W' {
                out.put_u8(field);
                put_string(out, value);
            }
        }
        out.put_u8(0);
    });
}

/// A client's `Parse`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ParseBody<'a> {
    pub(super) name: &'a [u8],
    pub(super) sql: &'a [u8],
    types: &'a [u8],
}

impl<'a> ParseBody<'a> {
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        let mut body = Body(body);
        let (name, sql) = (body.string()?, body.string()?);
        let count = usize::from(body.u16()?);
        let types = body.take(count * 4)?;
        body.0.is_empty().then_some(Self { name, sql, types })
    }

    /// The declared parameter types; 0 is undeclared.
    pub(super) fn types(&self) -> Vec<u32> {
        let (types, _) = self.types.as_chunks::<4>();
        types.iter().map(|oid| u32::from_be_bytes(*oid)).collect()
    }
}

/// A parameter's or column's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Binary,
}

impl Format {
    fn from_code(code: u16) -> Option<Self> {
        match code {
            0 => Some(Self::Text),
            1 => Some(Self::Binary),
            2.. => None,
        }
    }
}

/// A client's `Bind`.
#[derive(Clone, Debug)]
pub(super) struct BindBody<'a> {
    pub(super) portal: &'a [u8],
    pub(super) statement: &'a [u8],
    formats: Vec<Format>,
    values: Vec<Option<&'a [u8]>>,
    /// Count and codes, as they came.
    result_formats: &'a [u8],
}

impl<'a> BindBody<'a> {
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        let mut body = Body(body);
        let (portal, statement) = (body.string()?, body.string()?);
        let formats = (0..body.u16()?)
            .map(|_| body.u16().and_then(Format::from_code))
            .collect::<Option<Vec<_>>>()?;
        let count = usize::from(body.u16()?);
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(match body.i32()? {
                -1 => None,
                length => Some(body.take(usize::try_from(length).ok()?)?),
            });
        }
        if formats.len() > 1 && formats.len() != count {
            return None;
        }
        let result_formats = body.0;
        let codes = usize::from(body.u16()?);
        body.take(codes * 2)?;
        body.0.is_empty().then_some(Self {
            portal,
            statement,
            formats,
            values,
            result_formats,
        })
    }

    /// The number of parameters.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// Parameter `$number`, from 1: `None` is NULL or missing.
    pub(super) fn value(&self, number: u16) -> Option<(Format, &'a [u8])> {
        let index = usize::from(number).checked_sub(1)?;
        let value = (*self.values.get(index)?)?;
        Some((self.format(index), value))
    }

    /// Whether parameter `$number` is a value in binary form.
    pub(super) fn is_binary(&self, number: u16) -> bool {
        matches!(self.value(number), Some((Format::Binary, _)))
    }

    fn format(&self, index: usize) -> Format {
        match self.formats.as_slice() {
            [] => Format::Text,
            [all] => *all,
            each => each.get(index).copied().unwrap_or(Format::Text),
        }
    }

    /// Puts a binary value in the place of parameter `$number`'s.
    pub(super) fn set_binary(&mut self, number: u16, value: &'a [u8]) {
        let index = usize::from(number).wrapping_sub(1);
        self.formats = (0..self.values.len())
            .map(|index| self.format(index))
            .collect();
        if let (Some(old), Some(format)) = (self.values.get_mut(index), self.formats.get_mut(index))
        {
            (*old, *format) = (Some(value), Format::Binary);
        }
    }

    /// The same parameters for a portal of Rektor's own, with text results.
    pub(super) fn for_portal(&self, portal: &'a [u8]) -> Self {
        Self {
            portal,
            result_formats: &[0, 0],
            ..self.clone()
        }
    }

    /// The same `Bind` of another statement, with `extra` binary parameters appended. At most 65,535 in all: the caller checks.
    pub(super) fn redirect(&self, out: &mut BytesMut, statement: &[u8], extra: &[Bytes]) {
        frame(out, b'B', |out| {
            put_string(out, self.portal);
            put_string(out, statement);
            let count = u16::try_from(self.values.len() + extra.len()).unwrap_or(u16::MAX);
            out.put_u16(count);
            for index in 0..self.values.len() {
                out.put_u16(u16::from(self.format(index) == Format::Binary));
            }
            extra.iter().for_each(|_| out.put_u16(1));
            out.put_u16(count);
            for value in &self.values {
                match value {
                    None => out.put_i32(-1),
                    Some(value) => {
                        out.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
                        out.put_slice(value);
                    }
                }
            }
            for value in extra {
                out.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
                out.put_slice(value);
            }
            out.put_slice(self.result_formats);
        });
    }
}

/// The values of a `DataRow`'s body.
pub(super) fn row_values(body: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let mut body = Body(body);
    (0..body.u16()?)
        .map(|_| match body.i32()? {
            -1 => Some(None),
            length => Some(Some(body.take(usize::try_from(length).ok()?)?)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(bytes: &BytesMut) -> &[u8] {
        &bytes[5..]
    }

    #[test]
    fn own_messages_can_be_read() {
        let mut out = BytesMut::new();
        parse(&mut out, b"s", b"select 1", &[23, 0]);
        let read = ParseBody::read(body(&out)).unwrap();
        assert_eq!(
            (read.name, read.sql, read.types()),
            (&b"s"[..], &b"select 1"[..], vec![23, 0])
        );
        assert_eq!(out.len(), 1 + 4 + 2 + 9 + 2 + 8);

        let mut out = BytesMut::new();
        let report = Report {
            severity: "FATAL",
            sqlstate: "53300",
            message: "m",
            hint: None,
        };
        error(&mut out, report);
        assert_eq!(sqlstate(body(&out)), Some(&b"53300"[..]));
        assert_eq!(error_field(body(&out), b'H'), None);
    }

    #[test]
    fn a_bind_is_redirected_with_any_number_of_format_codes() {
        for (formats, expected) in [
            (&b"\0\0"[..], [0, 0, 1]),
            (b"\0\x01\0\x01", [1, 1, 1]),
            (b"\0\x02\0\0\0\x01", [0, 1, 1]),
        ] {
            let mut original = b"p\0s\0".to_vec();
            original.extend_from_slice(formats);
            original.extend_from_slice(b"\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\x01\0\x01");
            let mut bind = BindBody::read(&original).unwrap();
            let mut out = BytesMut::new();
            bind.redirect(&mut out, b"rektor_1", &[Bytes::from_static(b"keys")]);
            let again = BindBody::read(body(&out)).unwrap();
            assert_eq!(
                (again.portal, again.statement),
                (&b"p"[..], &b"rektor_1"[..])
            );
            let codes: Vec<_> = again
                .formats
                .iter()
                .map(|f| u16::from(*f == Format::Binary))
                .collect();
            assert_eq!(codes, expected);
            assert_eq!(again.values, [Some(&b"x"[..]), None, Some(&b"keys"[..])]);
            assert_eq!(again.result_formats, b"\0\x01\0\x01");

            assert!(!bind.is_binary(2), "NULL");
            bind.set_binary(2, b"vector");
            assert!(bind.is_binary(2));
            assert_eq!(bind.value(1), Some((again.format(0), &b"x"[..])));
            assert_eq!(bind.value(2), Some((Format::Binary, &b"vector"[..])));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = ParseBody::read(&bytes);
            let _ = BindBody::read(&bytes);
            let _ = row_values(&bytes);
            let _ = error_field(&bytes, b'C');
        }
    }
}
