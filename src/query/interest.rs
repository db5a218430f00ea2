//! Raw statement bytes → whether parsing them could matter at all, and whether they may write. A prefilter that runs on every
//! statement: false positives cost a parse, false negatives are defects. Never looks at quoting; comments only where a
//! statement begins.

use super::names::{self, Nature, Scope};

/// What a statement's bytes mention. The first five false: it is relayed unparsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// A distance operator or function: it may be a k-NN query.
    pub distance: bool,
    /// `faiss`, `rektor`, or INDEX together with DROP, ALTER or REINDEX: it may be ours to carry out.
    pub ddl: bool,
    /// A name of schema `rektor`'s stat views: their settings must be fresh before it runs.
    pub stat: bool,
    /// `verify_index`: what it tells must be found out before it runs.
    pub verify: bool,
    /// `set_config`, an isolation level, or a statement that begins with SET, RESET, DISCARD, COMMIT, ROLLBACK, PREPARE,
    /// EXECUTE, DEALLOCATE, CALL, DO, …, or names ATTACH, INHERIT, or TYPE together with ALTER: its [`Effect`](super::Effect) may be more than writing.
    pub settings: bool,
    /// It may write. Says the same as [`Effect::writes`](super::Effect::writes) without a parse, and errs on the same side.
    pub writes: bool,
}

impl Interest {
    /// Whether the statement has to be parsed.
    #[must_use]
    pub const fn parse(self) -> bool {
        self.distance || self.ddl || self.stat || self.verify || self.settings
    }

    const ALL: Self = Self {
        distance: true,
        ddl: true,
        stat: true,
        verify: true,
        settings: true,
        writes: true,
    };
}

/// Scans a statement once, ASCII case-insensitively.
#[must_use]
pub fn interest(sql: &[u8]) -> Interest {
    let mut scan = Scan::new(sql);
    while let Some(&byte) = sql.get(scan.at) {
        match class(byte) {
            Class::Nothing => scan.at += 1,
            Class::Word => scan.word(),
            Class::Less => scan.less(),
            Class::Semicolon => scan.semicolon(),
            Class::Paren => scan.paren(),
            Class::Comment => scan.comment_sign(byte),
            Class::Newline => {
                if scan.place == Place::LineComment {
                    scan.place = Place::Start;
                }
                scan.at += 1;
            }
        }
    }
    scan.found.ddl |= scan.index && scan.alters;
    scan.found.settings |= scan.kind && scan.alters;
    scan.found
}

/// What a byte means to the scan.
#[derive(Clone, Copy)]
enum Class {
    Nothing,
    Word,
    Less,
    Semicolon,
    Paren,
    Comment,
    Newline,
}

const fn class(byte: u8) -> Class {
    CLASSES[byte as usize]
}

static CLASSES: [Class; 256] = {
    let mut classes = [Class::Nothing; 256];
    let mut byte = 0;
    while byte < 256 {
        // As the scanner has it: letters, digits, `_`, `$`, and every byte of a character beyond ASCII.
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let at = byte as u8;
        if at.is_ascii_alphanumeric() || at == b'_' || at == b'$' || at >= 0x80 {
            classes[byte] = Class::Word;
        }
        byte += 1;
    }
    classes[b'<' as usize] = Class::Less;
    classes[b';' as usize] = Class::Semicolon;
    classes[b'(' as usize] = Class::Paren;
    classes[b'-' as usize] = Class::Comment;
    classes[b'/' as usize] = Class::Comment;
    classes[b'*' as usize] = Class::Comment;
    classes[b'\n' as usize] = Class::Newline;
    classes[b'\r' as usize] = Class::Newline;
    classes
};

/// Whether the next word is the first of a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is.
    Start,
    /// A `--` comment before the first word.
    LineComment,
    /// A `/*` comment before it, this deep.
    BlockComment(u32),
    /// It is not.
    Within,
    /// A semicolon stood in what looked like a comment: either it is one, or a string was taken for one. Any word may be.
    Doubt,
}

struct Scan<'a> {
    sql: &'a [u8],
    at: usize,
    place: Place,
    found: Interest,
    /// INDEX was seen, and one of DROP, ALTER, REINDEX.
    index: bool,
    alters: bool,
    /// TYPE was seen.
    kind: bool,
    /// `--` was seen: what precedes a bracket on another line may be a comment.
    line_comment: bool,
    /// The last word.
    last: (usize, usize),
}

impl<'a> Scan<'a> {
    fn new(sql: &'a [u8]) -> Self {
        Self {
            sql,
            at: 0,
            place: Place::Start,
            found: Interest::default(),
            index: false,
            alters: false,
            kind: false,
            line_comment: false,
            last: (0, 0),
        }
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.sql.get(self.at + ahead).copied()
    }

    fn semicolon(&mut self) {
        self.place = match self.place {
            Place::Start | Place::Within => Place::Start,
            Place::LineComment | Place::BlockComment(_) | Place::Doubt => {
                self.found.writes = true;
                Place::Doubt
            }
        };
        self.at += 1;
    }

    fn word(&mut self) {
        let rest = self.sql.get(self.at..).unwrap_or_default();
        let length = rest
            .iter()
            .position(|byte| !matches!(class(*byte), Class::Word))
            .unwrap_or(rest.len());
        self.last = (self.at, self.at + length);
        self.at += length;
        if rest.first().is_some_and(u8::is_ascii_digit) {
            return;
        }
        let mut buffer = [0; LONGEST_WORD];
        let Some(word) = lower(rest.get(..length).unwrap_or_default(), &mut buffer) else {
            self.first_word(b"");
            return;
        };
        self.first_word(word);
        match word {
            b"l2_distance" | b"cosine_distance" | b"inner_product" | b"l1_distance"
            | b"hamming_distance" | b"jaccard_distance" => {
                self.found.distance = true;
            }
            b"faiss" | b"rektor" => self.found.ddl = true,
            b"index" => self.index = true,
            b"type" => self.kind = true,
            b"drop" | b"alter" | b"reindex" => self.alters = true,
            b"stat_indexes" | b"stat_progress" | b"stat_replication" | b"stat_queries" => {
                self.found.stat = true;
            }
            b"verify_index" => self.found.verify = true,
            b"set_config" | b"isolation" | b"snapshot" | b"attach" | b"inherit" | b"inherits" => {
                self.found.settings = true;
            }
            b"insert" | b"update" | b"delete" | b"merge" | b"into" | b"prepared"
            | b"constraints" => self.found.writes = true,
            // U&"\0066aiss" may spell anything.
            b"u" if self.byte(0) == Some(b'&') && matches!(self.byte(1), Some(b'"' | b'\'')) => {
                self.found = Interest::ALL;
            }
            _ => {}
        }
    }

    /// The first word of a statement, in lower case.
    fn first_word(&mut self, word: &[u8]) {
        match self.place {
            Place::Start => self.place = Place::Within,
            Place::Doubt => {}
            Place::LineComment | Place::BlockComment(_) | Place::Within => return,
        }
        match word {
            b"select" | b"with" | b"values" | b"table" | b"show" | b"savepoint" | b"release"
            | b"fetch" | b"move" | b"close" | b"declare" | b"explain" | b"listen" | b"unlisten"
            | b"notify" | b"lock" | b"checkpoint" | b"begin" | b"start" => {}
            b"set" | b"reset" | b"discard" | b"rollback" | b"abort" | b"commit" | b"end"
            | b"prepare" | b"deallocate" | b"load" => self.found.settings = true,
            b"execute" | b"call" | b"do" => {
                self.found.settings = true;
                self.found.writes = true;
            }
            _ => self.found.writes = true,
        }
    }

    /// `<->`, `<#>`, `<=>`, `<+>`, `<~>`, `<%>`, within a longer operator as well.
    fn less(&mut self) {
        if matches!(self.byte(1), Some(b'-' | b'#' | b'=' | b'+' | b'~' | b'%'))
            && self.byte(2) == Some(b'>')
        {
            self.found.distance = true;
        }
        self.at += 1;
    }

    /// A bracket: the word before it may be a function's name.
    fn paren(&mut self) {
        let (start, end) = self.last;
        let at = self.at;
        self.at += 1;
        let gap = self.sql.get(end..at).unwrap_or_default();
        let called = match gap.iter().rfind(|byte| !byte.is_ascii_whitespace()) {
            None => true,
            Some(b'"' | b'/') => return self.found.writes = true, // "Name"(…), name /* … */ (…)
            Some(_) => false,
        };
        if self.line_comment && gap.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            self.found.writes = true; // name -- …
        }
        if !called || start == end {
            return;
        }
        let before = self.sql.get(..start).unwrap_or_default().trim_ascii_end();
        let scope = match before.strip_suffix(b".") {
            Some(schema) if !ends_with_catalog(schema.trim_ascii_end()) => Scope::Schema,
            Some(_) | None => Scope::Catalog,
        };
        let mut buffer = [0; LONGEST_WORD];
        let word = lower(self.sql.get(start..end).unwrap_or_default(), &mut buffer);
        let harmless = word
            .and_then(|word| std::str::from_utf8(word).ok())
            .is_some_and(|word| harmless_before_paren(scope, word));
        self.found.writes |= !harmless;
    }

    fn comment_sign(&mut self, byte: u8) {
        let next = self.byte(1);
        let length = match (byte, next, self.place) {
            (b'-', Some(b'-'), Place::Start) => {
                self.place = Place::LineComment;
                2
            }
            (b'/', Some(b'*'), Place::Start) => {
                self.place = Place::BlockComment(1);
                2
            }
            (b'/', Some(b'*'), Place::BlockComment(depth)) => {
                self.place = Place::BlockComment(depth.saturating_add(1));
                2
            }
            (b'*', Some(b'/'), Place::BlockComment(depth)) => {
                self.place = match depth {
                    0 | 1 => Place::Start,
                    _ => Place::BlockComment(depth - 1),
                };
                2
            }
            _ => 1,
        };
        self.line_comment |= byte == b'-' && next == Some(b'-');
        self.at += length;
    }
}

/// Longer words than PostgreSQL's identifiers are no name of ours.
const LONGEST_WORD: usize = 63;

/// The word in lower case; `None` when it is longer than any.
fn lower<'b>(word: &[u8], buffer: &'b mut [u8; LONGEST_WORD]) -> Option<&'b [u8]> {
    let target = buffer.get_mut(..word.len())?;
    target.copy_from_slice(word);
    target.make_ascii_lowercase();
    Some(target)
}

/// Whether a text ends with the word `pg_catalog`.
fn ends_with_catalog(text: &[u8]) -> bool {
    let name = b"pg_catalog";
    text.len() >= name.len()
        && text
            .get(text.len() - name.len()..)
            .is_some_and(|end| end.eq_ignore_ascii_case(name))
        && !text
            .get(..text.len() - name.len())
            .and_then(<[u8]>::last)
            .is_some_and(|before| matches!(class(*before), Class::Word))
}

/// Whether a word before a bracket is neither a function that writes nor one that is not known.
fn harmless_before_paren(scope: Scope, word: &str) -> bool {
    let keyword = matches!(
        word,
        "all"
            | "and"
            | "any"
            | "array"
            | "as"
            | "between"
            | "by"
            | "case"
            | "cast"
            | "check"
            | "coalesce"
            | "cube"
            | "decimal"
            | "distinct"
            | "else"
            | "except"
            | "exists"
            | "explain"
            | "fetch"
            | "filter"
            | "first"
            | "from"
            | "full"
            | "greatest"
            | "group"
            | "grouping"
            | "having"
            | "ilike"
            | "in"
            | "inner"
            | "intersect"
            | "is"
            | "isnull"
            | "join"
            | "lateral"
            | "least"
            | "like"
            | "limit"
            | "materialized"
            | "next"
            | "not"
            | "notnull"
            | "nullif"
            | "offset"
            | "on"
            | "operator"
            | "or"
            | "order"
            | "over"
            | "overlaps"
            | "partition"
            | "rollup"
            | "row"
            | "select"
            | "sets"
            | "similar"
            | "some"
            | "symmetric"
            | "then"
            | "trim"
            | "union"
            | "using"
            | "values"
            | "when"
            | "where"
            | "with"
            | "within"
            | "varying"
            | "character"
            | "dec"
            | "integer"
            | "int"
            | "precision"
    );
    if (keyword && scope == Scope::Catalog) || names::type_is_known(scope, word) {
        return true;
    }
    match names::function(scope, word) {
        Some(
            Nature::Stable
            | Nature::Volatile
            | Nature::Settings
            | Nature::SetReturning
            | Nature::Aggregate
            | Nature::Window,
        ) => true,
        Some(Nature::Writes) | None => false,
    }
}

#[cfg(test)]
mod tests;
