//! WAL positions: `X/Y` text and 64-bit numbers → `Lsn`, and how far a reader of the WAL has come.
//! Never does arithmetic beyond the difference of two positions, and never I/O.

use std::fmt;
use std::str::FromStr;

/// A position in PostgreSQL's write-ahead log, in bytes from its beginning; printed as `X/Y` in hexadecimal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// The position before everything; PostgreSQL's `InvalidXLogRecPtr`.
    pub const ZERO: Self = Self(0);

    /// A position from its number of bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes from the beginning of the log.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Bytes of log from `earlier` to here; 0 when `earlier` lies beyond.
    #[must_use]
    pub const fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is no `pg_lsn`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid input syntax for type pg_lsn: \"{0}\"")]
pub struct InvalidLsn(String);

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let invalid = || InvalidLsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(invalid)?;
        let half = |digits: &str| {
            if digits.is_empty()
                || digits.len() > 8
                || !digits.bytes().all(|b| b.is_ascii_hexdigit())
            {
                return Err(invalid());
            }
            u32::from_str_radix(digits, 16).map_err(|_| invalid())
        };
        Ok(Self((u64::from(half(high)?) << 32) | u64::from(half(low)?)))
    }
}

/// How far a reader of the stream has come. `received` never lies behind `durable` or `applied`, and none goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    received: Lsn,
    durable: Lsn,
    applied: Lsn,
}

impl Progress {
    /// A reader that resumes where everything up to `start` is durable and applied.
    #[must_use]
    pub const fn starting_at(start: Lsn) -> Self {
        Self {
            received: start,
            durable: start,
            applied: start,
        }
    }

    /// Everything before `lsn` has arrived. Reported upstream as `write`.
    pub fn receive(&mut self, lsn: Lsn) {
        self.received = self.received.max(lsn);
    }

    /// Everything before `lsn` survives a crash of this machine. Reported upstream as `flush`; never beyond `received`.
    pub fn make_durable(&mut self, lsn: Lsn) {
        debug_assert!(lsn <= self.received, "durable beyond received");
        self.durable = self.durable.max(lsn.min(self.received));
    }

    /// Everything before `lsn` is searchable. Reported upstream as `apply`; never beyond `received`.
    pub fn apply(&mut self, lsn: Lsn) {
        debug_assert!(lsn <= self.received, "applied beyond received");
        self.applied = self.applied.max(lsn.min(self.received));
    }

    /// Upstream's `write`.
    #[must_use]
    pub const fn received(&self) -> Lsn {
        self.received
    }

    /// Upstream's `flush`.
    #[must_use]
    pub const fn durable(&self) -> Lsn {
        self.durable
    }

    /// Upstream's `apply`.
    #[must_use]
    pub const fn applied(&self) -> Lsn {
        self.applied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number_agree() {
        for (text, bytes) in [
            ("0/0", 0),
            ("0/16B3748", 0x16B_3748),
            ("16/B374D848", 0x16_B374_D848),
            ("FFFFFFFF/FFFFFFFF", u64::MAX),
        ] {
            assert_eq!(text.parse::<Lsn>().unwrap(), Lsn::new(bytes));
            assert_eq!(Lsn::new(bytes).to_string(), text);
        }
    }

    #[test]
    fn what_postgres_refuses_is_refused() {
        for text in [
            "",
            "/",
            "0",
            "0/",
            "/0",
            "G/0",
            "0/123456789",
            "-1/0",
            " 0/0",
            "0/0 ",
            "0/0/0",
            "+1/0",
        ] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn progress_never_goes_back() {
        let mut progress = Progress::starting_at(Lsn::new(5));
        progress.receive(Lsn::new(9));
        progress.make_durable(Lsn::new(8));
        progress.apply(Lsn::new(7));
        progress.receive(Lsn::new(3));
        progress.make_durable(Lsn::new(3));
        progress.apply(Lsn::new(3));
        assert_eq!(
            (progress.received(), progress.durable(), progress.applied()),
            (Lsn::new(9), Lsn::new(8), Lsn::new(7))
        );
    }
}
