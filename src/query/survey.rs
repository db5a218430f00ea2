//! A SELECT's parse tree → everything in it that could make running it twice, or under a restriction to keys, wrong.
//! Goes through constructs on an allow-list only; whatever else occurs is an obstacle. That an operator, or a function
//! called as `(row).field`, writes is beyond it.

use std::collections::BTreeSet;

use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{
    FuncCall, Node, SelectStmt, SetOperation, SortBy, TypeName, WindowDef, WithClause,
};

use super::RelayReason;
use super::names::{self, Nature, Scope};
use super::parse;

/// What a SELECT does besides reading tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    /// Functions that are not well known, as `name` or `schema.name`.
    pub(super) unknown_functions: BTreeSet<String>,
    /// Types in casts that are not well known, likewise.
    pub(super) unknown_types: BTreeSet<String>,
    /// Tables, and whatever else has their names, as schema, where one is written, and name.
    pub(super) relations: BTreeSet<(Option<String>, String)>,
    /// The first thing found that forbids a claim.
    pub(super) obstacle: Option<RelayReason>,
    /// Whether it may write: it calls a function that does, or holds something that is not analysed.
    pub(super) writes: bool,
    /// Whether it calls `set_config`.
    pub(super) settings: bool,
}

/// Where in the statement an expression stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// The level of the ORDER BY that a claim is about: neither aggregates, windows nor sets.
    Top,
    /// A subquery's expression, where these are harmless.
    Below,
}

impl Survey {
    /// Surveys a whole SELECT.
    pub(super) fn of(select: &SelectStmt) -> Self {
        let mut survey = Self::default();
        survey.select(select, Level::Top);
        survey
    }

    fn refuse(&mut self, reason: RelayReason) {
        self.obstacle.get_or_insert(reason);
    }

    /// Something that is not analysed: it may do anything.
    fn unknown(&mut self) {
        self.refuse(RelayReason::UnknownExpression);
        self.writes = true;
    }

    fn select(&mut self, select: &SelectStmt, level: Level) {
        if select.into_clause.is_some() {
            self.refuse(RelayReason::Into);
            self.writes = true;
        }
        if !select.locking_clause.is_empty() {
            self.refuse(RelayReason::Locking);
            self.writes = true;
        }
        if let Some(with) = &select.with_clause {
            self.with(with);
        }
        let level = if SetOperation::try_from(select.op) == Ok(SetOperation::SetopNone) {
            level
        } else {
            for side in [&select.larg, &select.rarg].into_iter().flatten() {
                self.select(side, Level::Below);
            }
            Level::Below
        };
        self.list(&select.distinct_clause, level);
        self.list(&select.target_list, level);
        for from in &select.from_clause {
            self.table_item(from);
        }
        self.option(select.where_clause.as_deref(), level);
        self.list(&select.group_clause, level);
        self.option(select.having_clause.as_deref(), level);
        self.list(&select.window_clause, level);
        self.list(&select.values_lists, level);
        self.list(&select.sort_clause, level);
        self.option(select.limit_count.as_deref(), level);
        self.option(select.limit_offset.as_deref(), level);
    }

    fn with(&mut self, with: &WithClause) {
        for query in &with.ctes {
            match &query.node {
                Some(Tree::CommonTableExpr(query)) if query.cycle_clause.is_none() => {
                    self.subquery(query.ctequery.as_deref());
                }
                Some(_) | None => self.unknown(),
            }
        }
    }

    fn subquery(&mut self, node: Option<&Node>) {
        match node.and_then(|node| node.node.as_ref()) {
            Some(Tree::SelectStmt(select)) => self.select(select, Level::Below),
            Some(_) | None => self.unknown(), // INSERT … RETURNING and the like
        }
    }

    fn table_item(&mut self, node: &Node) {
        match &node.node {
            Some(Tree::RangeVar(table)) => {
                let schema = (!table.schemaname.is_empty()).then(|| table.schemaname.clone());
                self.relations.insert((schema, table.relname.clone()));
            }
            Some(Tree::RangeSubselect(subselect)) => self.subquery(subselect.subquery.as_deref()),
            Some(Tree::JoinExpr(join)) => {
                for side in [&join.larg, &join.rarg].into_iter().flatten() {
                    self.table_item(side);
                }
                self.option(join.quals.as_deref(), Level::Below);
            }
            Some(Tree::RangeFunction(functions)) if functions.coldeflist.is_empty() => {
                for function in &functions.functions {
                    self.function_item(function);
                }
            }
            Some(Tree::RangeTableSample(_)) => self.refuse(RelayReason::TableSample),
            Some(_) | None => self.unknown(),
        }
    }

    /// One function of FROM, which comes as a list of the call and its column definitions.
    fn function_item(&mut self, node: &Node) {
        match &node.node {
            Some(Tree::List(list)) => match list.items.as_slice() {
                [call] => self.expression(call, Level::Below),
                [call, none] if none.node.is_none() => self.expression(call, Level::Below),
                _ => self.unknown(),
            },
            Some(_) | None => self.unknown(),
        }
    }

    fn option(&mut self, node: Option<&Node>, level: Level) {
        if let Some(node) = node {
            self.expression(node, level);
        }
    }

    fn list(&mut self, nodes: &[Node], level: Level) {
        for node in nodes {
            self.expression(node, level);
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "an allow-list of 30 among 260 kinds of nodes: everything else is an obstacle"
    )]
    fn expression(&mut self, node: &Node, level: Level) {
        let Some(tree) = &node.node else {
            return; // an absent member of a list, as in DISTINCT without ON
        };
        match tree {
            Tree::ColumnRef(_)
            | Tree::ParamRef(_)
            | Tree::AConst(_)
            | Tree::AStar(_)
            | Tree::SqlvalueFunction(_)
            | Tree::String(_)
            | Tree::Integer(_) => {}
            Tree::AExpr(operation) => {
                self.operator(&operation.name);
                self.option(operation.lexpr.as_deref(), level);
                self.option(operation.rexpr.as_deref(), level);
            }
            Tree::BoolExpr(operation) => self.list(&operation.args, level),
            Tree::NullTest(test) => self.option(test.arg.as_deref(), level),
            Tree::BooleanTest(test) => self.option(test.arg.as_deref(), level),
            Tree::TypeCast(cast) => {
                self.type_name(cast.type_name.as_ref());
                self.option(cast.arg.as_deref(), level);
            }
            Tree::CollateClause(collate) => self.option(collate.arg.as_deref(), level),
            Tree::FuncCall(call) => self.function(call, level),
            Tree::NamedArgExpr(argument) => self.option(argument.arg.as_deref(), level),
            Tree::AIndirection(indirection) => {
                self.option(indirection.arg.as_deref(), level);
                for step in &indirection.indirection {
                    match &step.node {
                        Some(Tree::AIndices(_)) => self.expression(step, level),
                        // `(row).field` may be a call of function `field`.
                        Some(_) | None => self.refuse(RelayReason::UnknownExpression),
                    }
                }
            }
            Tree::AIndices(indices) => {
                self.option(indices.lidx.as_deref(), level);
                self.option(indices.uidx.as_deref(), level);
            }
            Tree::AArrayExpr(array) => self.list(&array.elements, level),
            Tree::RowExpr(row) => self.list(&row.args, level),
            Tree::CoalesceExpr(coalesce) => self.list(&coalesce.args, level),
            Tree::MinMaxExpr(minmax) => self.list(&minmax.args, level),
            Tree::CaseExpr(case) => {
                self.option(case.arg.as_deref(), level);
                self.list(&case.args, level);
                self.option(case.defresult.as_deref(), level);
            }
            Tree::CaseWhen(when) => {
                self.option(when.expr.as_deref(), level);
                self.option(when.result.as_deref(), level);
            }
            Tree::XmlExpr(xml) => {
                self.list(&xml.named_args, level);
                self.list(&xml.args, level);
            }
            Tree::JsonIsPredicate(test) => self.option(test.expr.as_deref(), level),
            Tree::SubLink(link) => {
                self.operator(&link.oper_name);
                self.option(link.testexpr.as_deref(), level);
                self.subquery(link.subselect.as_deref());
            }
            Tree::GroupingFunc(grouping) => {
                self.aggregate(level);
                self.list(&grouping.args, level);
            }
            Tree::GroupingSet(set) => self.list(&set.content, level),
            Tree::ResTarget(target) => self.option(target.val.as_deref(), level),
            Tree::SortBy(sort) => self.sort(sort, level),
            Tree::WindowDef(window) => self.window(window, level),
            Tree::List(list) => self.list(&list.items, level),
            _ => self.unknown(),
        }
    }

    fn sort(&mut self, sort: &SortBy, level: Level) {
        self.operator(&sort.use_op);
        self.option(sort.node.as_deref(), level);
    }

    fn window(&mut self, window: &WindowDef, level: Level) {
        if level == Level::Top {
            self.refuse(RelayReason::Window);
        }
        self.list(&window.partition_clause, level);
        self.list(&window.order_clause, level);
        self.option(window.start_offset.as_deref(), level);
        self.option(window.end_offset.as_deref(), level);
    }

    fn aggregate(&mut self, level: Level) {
        if level == Level::Top {
            self.refuse(RelayReason::Aggregate);
        }
    }

    fn operator(&mut self, name: &[Node]) {
        // Without a name there is none: IN (subquery) and EXISTS. LIKE and BETWEEN come as `~~` and words.
        let Some(operator) = name.last().and_then(parse::string) else {
            return;
        };
        let word = operator
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b == b' ');
        if !word && !names::operator_is_known(operator) {
            self.refuse(RelayReason::UnknownOperator);
        }
    }

    fn type_name(&mut self, name: Option<&TypeName>) {
        let Some(name) = name else {
            return self.unknown();
        };
        let Some(names) = parse::names(&name.names) else {
            return self.unknown();
        };
        if name.setof || name.pct_type {
            return self.unknown();
        }
        // A dot within a name could not be told from one between names where upstream is asked.
        let Some(last) = names.last().filter(|_| !has_dot(&names)) else {
            return self.unknown();
        };
        // `_int4` is the array type of `int4`.
        if !names::type_is_known(Scope::of(&names), last.strip_prefix('_').unwrap_or(last)) {
            self.unknown_types.insert(names.join("."));
        }
    }

    fn function(&mut self, call: &FuncCall, level: Level) {
        let Some(name) = parse::names(&call.funcname) else {
            return self.unknown();
        };
        let Some(last) = name.last().filter(|_| !has_dot(&name)) else {
            return self.unknown();
        };
        if let Some(window) = &call.over {
            self.window(window, level);
        }
        match names::function(Scope::of(&name), last) {
            Some(Nature::Stable) => {}
            Some(Nature::Volatile) => self.refuse(RelayReason::Volatile),
            Some(Nature::Writes) => {
                self.refuse(RelayReason::Volatile);
                self.writes = true;
            }
            Some(Nature::Settings) => {
                self.refuse(RelayReason::Volatile);
                self.settings = true;
            }
            Some(Nature::SetReturning) if level == Level::Top => {
                self.refuse(RelayReason::SetReturning);
            }
            Some(Nature::Aggregate | Nature::Window) => {
                if call.over.is_none() {
                    self.aggregate(level);
                }
            }
            Some(Nature::SetReturning) => {}
            None => {
                self.unknown_functions.insert(name.join("."));
                self.writes = true;
            }
        }
        self.list(&call.args, level);
        self.list(&call.agg_order, level);
        self.option(call.agg_filter.as_deref(), level);
    }
}

fn has_dot(names: &[&str]) -> bool {
    names.iter().any(|name| name.contains('.'))
}
