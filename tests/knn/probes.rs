//! `ivfflat.probes`, as a session sets it for pgvector's own indexes.

use crate::harness::Server;

/// pgvector's setting of an IVFFlat index is one of Rektor's lists; its default is nobody's choice.
#[test]
fn probes_of_a_session_are_the_lists_searched() {
    let database = Server::Pg18.shared().database();
    let rektor = crate::harness::Rektor::start(&database);
    let mut wire = rektor.connect();
    wire.run("load 'vector'");
    wire.run("create table t (id int primary key, v vector(3))");
    wire.run("insert into t select i, array[sin(i), sin(i * 1.7), sin(i * 2.3)] from generate_series(1, 20) i");
    wire.run("create index lists on t using faiss (v vector_l2_ops) with (method = ivf)");
    wire.run("create index graph on t using faiss (v vector_cosine_ops)");
    rektor.wait_ready("lists");
    rektor.wait_ready("graph");
    let mut effort = |set: &str, operator: &str| {
        wire.run(set);
        let sql = format!("explain select id from t order by v {operator} '[1,2,3]' limit 1");
        let lines = wire.column(&sql);
        let line = lines
            .iter()
            .find_map(|line| line.trim().strip_prefix("Effort: "));
        line.expect("an effort").to_owned()
    };
    let default = effort("select 1", "<->");
    assert!(default.contains("rektor.recall_target"), "{default}");
    assert_eq!(effort("set ivfflat.probes = 1", "<->"), default);
    let probes = "80 (of at least 20 lists, ivfflat.probes)";
    assert_eq!(effort("set ivfflat.probes = 20", "<->"), probes);
    assert!(effort("select 1", "<=>").contains("rektor.recall_target"));
    assert_eq!(effort("set hnsw.ef_search = 100", "<->"), probes);
    assert_eq!(effort("select 1", "<=>"), "100 (hnsw.ef_search)");
    assert_eq!(
        effort("begin; set local ivfflat.probes = 5", "<->"),
        "20 (of at least 5 lists, ivfflat.probes)"
    );
    assert_eq!(effort("rollback", "<->"), probes);
    assert_eq!(effort("reset all", "<->"), default);
}
