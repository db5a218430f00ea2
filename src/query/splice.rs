//! A k-NN statement's tokens → the places where a rewritten statement differs from it. Every byte elsewhere stays as written.

use std::ops::Range;

use pg_query::protobuf::Token as Kind;

use super::RelayReason;
use super::parse::Token;

/// How the sort key is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SortKey {
    /// The distance itself.
    Expression,
    /// A reference to an item of the select list.
    Target {
        /// Which, from 0.
        index: usize,
        /// Whether the item has a name after its expression.
        alias: bool,
    },
}

/// Where to cut, in bytes of the whole text. The order is that of the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Splices {
    /// The whole statement, with its comments: some carry hints.
    pub(super) statement: Range<usize>,
    /// The condition after WHERE, if there is one.
    pub(super) condition: Option<Range<usize>>,
    /// The end of what precedes ORDER BY: a new WHERE goes there.
    pub(super) before_order: usize,
    /// The sort key as written.
    pub(super) key: Range<usize>,
    /// The expression that the sort key means: itself, or an item of the select list.
    pub(super) expression: Range<usize>,
}

impl Splices {
    /// Finds the clauses of a SELECT that is known to be plain: one FROM item, no GROUP BY, one sort key, LIMIT.
    /// `targets` and `condition` say what the parse tree has, as a cross-check.
    pub(super) fn find(
        sql: &str,
        statement: Range<usize>,
        tokens: &[Token],
        key: &SortKey,
        targets: usize,
        condition: bool,
    ) -> Result<Self, RelayReason> {
        let clauses = Clauses::find(sql, tokens).ok_or(RelayReason::NotAPlainSelect)?;
        let span = |range: Range<usize>| span(tokens, range).ok_or(RelayReason::NotAPlainSelect);
        let where_body = match clauses.condition {
            Some(at) if condition => Some(span(at + 1..clauses.order)?),
            None if !condition => None,
            Some(_) | None => return Err(RelayReason::NotAPlainSelect),
        };
        let key_span = span(clauses.order + 2..clauses.key_end)?;
        let expression = match *key {
            SortKey::Expression => key_span.clone(),
            SortKey::Target { index, alias } => {
                let items = clauses.targets(tokens);
                let item = items.get(index).filter(|_| items.len() == targets);
                let item = item.cloned().ok_or(RelayReason::NotAPlainSelect)?;
                let end = if alias {
                    name_start(tokens, &item)
                } else {
                    item.end
                };
                span(item.start..end)?
            }
        };
        Ok(Self {
            statement,
            condition: where_body,
            before_order: span(0..clauses.order)?.end,
            key: key_span,
            expression,
        })
    }
}

/// A statement around a k-NN query that is its FROM: where a rewritten one differs, in bytes of the whole text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Around {
    /// The whole statement, with its comments.
    pub(super) statement: Range<usize>,
    /// The first word of a statement whose FROM is the query in brackets; of one whose WITH has it, none.
    pub(super) select: Option<usize>,
    /// What stands in the brackets.
    pub(super) inner: Range<usize>,
    /// The end of FROM: a new WHERE goes there.
    pub(super) after_from: usize,
    /// The condition after WHERE, if there is one.
    pub(super) condition: Option<Range<usize>>,
}

impl Around {
    /// Finds the parts of a SELECT that is known to be plain and to have one sub-select in FROM, or one query in WITH and
    /// its name in FROM; and the tokens of that. `condition` says what the parse tree has, as a cross-check.
    pub(super) fn find(
        statement: Range<usize>,
        tokens: &[Token],
        condition: bool,
    ) -> Option<(Self, &[Token])> {
        let first = tokens.first()?;
        let with = first.is(Kind::With);
        let (open, select) = if with {
            let open = open_after_as(tokens)?;
            (open, closing(tokens, open)? + 1)
        } else {
            (Outer::find(tokens, 0)?.from + 1, 0)
        };
        let outer = Outer::find(tokens, select)?;
        if outer.condition.is_some() != condition {
            return None;
        }
        let close = closing(tokens, open)?;
        let around = Self {
            statement,
            select: (!with).then_some(first.start),
            inner: span(tokens, open + 1..close)?,
            after_from: span(tokens, outer.from..outer.condition.unwrap_or(outer.end))?.end,
            condition: match outer.condition {
                Some(at) => Some(span(tokens, at + 1..outer.end)?),
                None => None,
            },
        };
        Some((around, tokens.get(open + 1..close)?))
    }
}

/// The bracket of `WITH name [(…)] AS [[NOT] MATERIALIZED] (`.
fn open_after_as(tokens: &[Token]) -> Option<usize> {
    let mut depth = Depth::default();
    let mut at = 1; // a name, whatever word it is
    while !(depth.outside(tokens.get(at)?) && at > 1 && tokens.get(at)?.is(Kind::As)) {
        at += 1;
    }
    at += 1;
    while tokens.get(at)?.is_any(&[Kind::Not, Kind::Materialized]) {
        at += 1;
    }
    Some(at)
}

/// The bracket that closes the one at `open`.
pub(super) fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    tokens.get(open).filter(|token| token.is(Kind::Ascii40))?;
    let mut depth = Depth::default();
    let mut rest = tokens.iter().enumerate().skip(open);
    rest.find_map(|(index, token)| {
        depth.outside(token);
        (depth.0 == 0).then_some(index)
    })
}

/// The clauses of a SELECT that is known to have neither grouping nor windows, as indexes of tokens.
struct Outer {
    from: usize,
    condition: Option<usize>,
    /// One past the last token of FROM and WHERE.
    end: usize,
}

impl Outer {
    fn find(tokens: &[Token], select: usize) -> Option<Self> {
        tokens.get(select).filter(|token| token.is(Kind::Select))?;
        let mut depth = Depth::default();
        let (mut from, mut condition, mut end) = (None, None, None);
        for (index, token) in tokens.iter().enumerate().skip(select + 1) {
            if !depth.outside(token) || is_name(tokens, index) {
                continue;
            }
            let clauses = [Kind::Order, Kind::Limit, Kind::Offset, Kind::Fetch];
            if from.is_none() {
                from = is_from(tokens, index).then_some(index);
            } else if token.is(Kind::Where) && end.is_none() {
                set_once(&mut condition, index)?;
            } else if end.is_none() && token.is_any(&clauses) {
                end = Some(index);
            }
        }
        Some(Self {
            from: from?,
            condition,
            end: end.unwrap_or(tokens.len()),
        })
    }
}

/// Whether a keyword is a name: after AS or a dot.
pub(super) fn is_name(tokens: &[Token], index: usize) -> bool {
    let before = index.checked_sub(1);
    let is_after = |kind| {
        before
            .and_then(|before| tokens.get(before))
            .is_some_and(|before| before.is(kind))
    };
    (is_after(Kind::As) && !before.is_some_and(|before| as_is_a_name(tokens, before)))
        || is_after(Kind::Ascii46)
}

/// Whether the token is FROM, and not that of IS DISTINCT FROM.
pub(super) fn is_from(tokens: &[Token], index: usize) -> bool {
    let is = |index: usize, kind| tokens.get(index).is_some_and(|token| token.is(kind));
    is(index, Kind::From) && !(index > 0 && is(index - 1, Kind::Distinct))
}

/// The bytes from the first to the last token of a range of tokens.
pub(super) fn span(tokens: &[Token], range: Range<usize>) -> Option<Range<usize>> {
    let tokens = tokens.get(range)?;
    Some(tokens.first()?.start..tokens.last()?.end)
}

/// Where an item's name begins: at its AS, else it is the last token.
fn name_start(tokens: &[Token], item: &Range<usize>) -> usize {
    let mut depth = Depth::default();
    let mut start = item.end.saturating_sub(1);
    for index in item.clone() {
        let Some(token) = tokens.get(index) else {
            break;
        };
        if depth.outside(token) && token.is(Kind::As) && !follows_dot(tokens, index) {
            start = index;
            break;
        }
    }
    start
}

fn follows_dot(tokens: &[Token], index: usize) -> bool {
    index
        .checked_sub(1)
        .and_then(|before| tokens.get(before))
        .is_some_and(|before| before.is(Kind::Ascii46))
}

/// How deep in brackets a scan is.
#[derive(Default)]
pub(super) struct Depth(usize);

impl Depth {
    /// Whether the scan is outside all brackets.
    pub(super) fn is_zero(&self) -> bool {
        self.0 == 0
    }

    /// Takes the next token; whether it stands outside all brackets and is none itself.
    pub(super) fn outside(&mut self, token: &Token) -> bool {
        if token.is_any(&[Kind::Ascii40, Kind::Ascii91]) {
            self.0 += 1;
            return false;
        }
        if token.is_any(&[Kind::Ascii41, Kind::Ascii93]) {
            self.0 = self.0.saturating_sub(1);
            return false;
        }
        self.0 == 0
    }
}

/// The clauses' keywords, as indexes of tokens.
struct Clauses {
    /// The first token of the select list.
    list: usize,
    from: usize,
    condition: Option<usize>,
    order: usize,
    /// One past the last token of the sort key.
    key_end: usize,
    /// The commas between the items of the select list.
    commas: Vec<usize>,
}

impl Clauses {
    /// In a SELECT of PostgreSQL's grammar the clauses' keywords are reserved: outside brackets they stand elsewhere only as
    /// a name after AS or a dot, and FROM also after DISTINCT.
    fn find(sql: &str, tokens: &[Token]) -> Option<Self> {
        let mut depth = Depth::default();
        let first = tokens.first().filter(|token| token.is(Kind::Select))?;
        depth.outside(first);
        let list = 1 + usize::from(tokens.get(1).is_some_and(|token| token.is(Kind::All)));
        let mut commas = Vec::new();
        let (mut from, mut condition, mut order, mut key_end) = (None, None, None, None);
        for (index, token) in tokens.iter().enumerate().skip(1) {
            if !depth.outside(token) || is_name(tokens, index) {
                continue;
            }
            if from.is_none() {
                if token.is(Kind::Ascii44) {
                    commas.push(index);
                } else if is_from(tokens, index) {
                    from = Some(index);
                }
            } else if token.is(Kind::Where) && order.is_none() {
                set_once(&mut condition, index)?;
            } else if token.is(Kind::Order) {
                set_once(&mut order, index)?;
                tokens.get(index + 1).filter(|by| by.is(Kind::By))?;
            } else if order.is_some() && key_end.is_none() && ends_key(sql, tokens, index) {
                key_end = Some(index);
            }
        }
        Some(Self {
            list,
            from: from?,
            condition,
            order: order?,
            key_end: key_end?,
            commas,
        })
    }

    /// The items of the select list, as ranges of tokens.
    fn targets(&self, tokens: &[Token]) -> Vec<Range<usize>> {
        let mut items = Vec::with_capacity(self.commas.len() + 1);
        let mut start = self.list;
        for comma in &self.commas {
            items.push(start..*comma);
            start = comma + 1;
        }
        items.push(start..self.from.min(tokens.len()));
        items
    }
}

/// Whether the AS at `index` is itself a name: `x.as`, `… AS as`.
fn as_is_a_name(tokens: &[Token], index: usize) -> bool {
    follows_dot(tokens, index)
        || index
            .checked_sub(1)
            .and_then(|before| tokens.get(before))
            .is_some_and(|before| before.is(Kind::As))
}

fn set_once(place: &mut Option<usize>, index: usize) -> Option<()> {
    match place.replace(index) {
        None => Some(()),
        Some(_) => None,
    }
}

/// Whether the sort key ends before this token. NULLS is a name unless FIRST or LAST follows.
fn ends_key(sql: &str, tokens: &[Token], index: usize) -> bool {
    let Some(token) = tokens.get(index) else {
        return true;
    };
    if token.is_any(&[Kind::NullsP, Kind::NullsLa]) {
        return tokens.get(index + 1).is_some_and(|next| {
            next.is_any(&[Kind::FirstP, Kind::LastP]) && !next.text(sql).starts_with('"')
        });
    }
    token.is_any(&[Kind::Asc, Kind::Limit, Kind::Offset, Kind::Fetch])
}
