//! Changes in the world around Rektor, on real servers: whatever happens to columns, tables, publication, slot, primary and
//! disk ends in an index that equals its table, or in upstream answers with a reason that an operator can read.
//!
//! What can fail, and the test that makes it fail; a sentence where it cannot.
//!
//! # Failures
//! | failure | test, or why it cannot occur |
//! |---|---|
//! | kill -9 while streaming | `chaos::` (kills at every fsync, rename, acknowledgement and hand-over), `workload::survives_kills_and_restarts_*` |
//! | kill -9 while a generation is written | `chaos::`, `store::tests::a_crash_at_any_operation_leaves_a_whole_generation` |
//! | a crash during a copy | `chaos::` (kills at `CopyReceive`, `CreateSlot`) |
//! | the network cut, a stale walsender | `chaos::` (`Cut`), `ingest::a_large_transaction_survives_cut_connections_and_shows_at_once`, `ingest::a_slot_that_another_uses_is_refused` |
//! | slow apply | the receiver reports on its own timer, whatever the applier does: `upstream::walsender::tests::a_silent_stream_is_given_up`, `ingest::a_large_transaction_survives_cut_connections_and_shows_at_once` |
//! | idle published tables | `slot::wal_of_others_never_accumulates_behind_an_idle_table`, `ingest::what_does_not_concern_us_does_not_hold_wal` |
//! | down for long | `slot::a_slot_that_is_lost_while_rektor_is_down_means_a_new_copy` |
//! | slot lost, dropped, recreated | `slot::a_slot_that_changes_while_rektor_is_down_means_a_new_copy`, `ingest::a_slot_that_is_lost_or_moved_means_a_new_copy` |
//! | slot ahead of the state | the same two (`pg_replication_slot_advance`, `pg_logical_slot_get_binary_changes`) |
//! | source restored to the past | `primary::a_primary_restored_to_an_earlier_point_is_followed_after_a_new_copy` |
//! | failover | `primary::a_promoted_standby_is_followed_after_a_new_copy` |
//! | rewrite, type or dimensions changed | `columns::what_is_altered_is_followed`, `columns::dimensions_that_change`, `ingest::what_the_stream_does_not_tell_is_found` |
//! | table dropped, recreated | `columns::what_is_altered_is_followed` |
//! | publication dropped, changed | `publication::a_publication_that_is_dropped_and_made_anew`, `publication::what_is_altered_by_hand_is_said_and_followed_when_undone`, `publication::a_row_filter_that_changes_is_followed` |
//! | leaf TRUNCATE, lost deletes | `ingest::partitions_come_and_go`, `partitions::…`; the audit is for what nobody foresaw |
//! | TRUNCATE | `columns::what_is_altered_is_followed`, `ingest::apply::tests` (property test) |
//! | `u` with no stored vector | `ingest::rows_that_enter_a_row_filter_are_indexed` |
//! | huge transaction | `ingest::a_large_transaction_survives_cut_connections_and_shows_at_once` |
//! | bad value | `bad_input::rows_that_cannot_be_indexed_are_left_out` |
//! | source shutdown | `workload::the_primary_is_safe`, `ingest::upstream_stops_at_once_and_is_followed_again` |
//! | our disk full, broken, read-only | `disk::a_disk_that_refuses_stops_acknowledgements_and_nothing_else`, `chaos::` |
//! | upstream out of slots, of walsenders | `slot::no_slot_and_no_walsender_to_be_had_is_said_and_waited_for` |
//! | too much WAL held | `slot::too_much_wal_gives_the_slot_up_until_what_held_it_has_ended` |
//!
//! # Traps
//! 1. A lagging flush blocks the source's shutdown: `workload::the_primary_is_safe`.
//! 2. The server accepts any acknowledgement: nothing is confirmed before system, timeline, slot and history are checked
//!    (`ingest::follow`): `primary::*`, `slot::a_slot_that_changes_while_rektor_is_down_means_a_new_copy`.
//! 3. Relations arrive with LSN 0/0, LSNs of events are not monotonic: only commit positions are used
//!    (`wal::transaction::tests::captured_streams_become_events_tagged_with_their_commit`).
//! 4. Row security makes COPY silently partial: `ingest::an_index_without_rights_fails_with_the_reason_until_they_are_there`.
//! 5. `K` tuples fill other columns with "absent": `wal::transaction::tests::key_rules`.
//! 6. `vector`'s OID differs per database: it is found by name in the catalogue; tests run in a new database each.
//! 7. Rows of up to about 2 kB resend the vector with every update: an equal vector is no new version
//!    (`index::tests::model`).
//! 8. A primary key update carries no vector: `ingest::projection::tests::a_key_change_keeps_what_is_unchanged`,
//!    `workload::*`.
//! 9. Keys swapped within one transaction: `ingest::apply::tests` (property test), `workload::*`.
//! 10. COPY must apply the publication's row filter: `ingest::rows_that_enter_a_row_filter_are_indexed`,
//!     `publication::a_row_filter_that_changes_is_followed`; a column list that lacks one of ours:
//!     `publication::what_is_altered_by_hand_is_said_and_followed_when_undone`.
//! 11. Ranges of pages across sessions: each session locks the table before it plans, and finds out whether it moved
//!     (`upstream::backfill`); `chaos::` rewrites tables during copies.
//! 12. `pg_current_wal_lsn()` fails on standbys: the queries ask `pg_is_in_recovery()` first; `rektor check` refuses a standby.
//! 13. Publishing a table without a key breaks its writes: `setup::every_error_has_postgress_sqlstate_and_text` (refused),
//!     `publication::what_breaks_the_applications_writes_is_undone`,
//!     `publication::a_partition_that_breaks_its_writes_is_undone` (a later ALTER).
//! 14. Long transactions hold `restart_lsn` whatever is confirmed:
//!     `slot::too_much_wal_gives_the_slot_up_until_what_held_it_has_ended`; `rektor check` names them.
//! 15. `wal_sender_timeout` is a user-level setting: set at login (`upstream::login`).
//! 16. SHOW on a replication connection may be refused: settings are read on an ordinary one; only `target_session_attrs`, if
//!     someone sets it, needs it.
//! 17. Two on one slot split the stream: `ingest::a_slot_that_another_uses_is_refused`,
//!     `serve::a_data_directory_has_one_rektor_and_a_slot_in_use_stays`.
//! 18. A slot without local state: `slot::a_slot_that_changes_while_rektor_is_down_means_a_new_copy` and every first start.
//! 19. The hand-over's `<` and not `<=`: `ingest::apply::tests` (property test with commits exactly at the copy's point),
//!     `chaos::`.
//!
//! # More (§8)
//! - Ownership of the publication: `setup::*`. Breaking the application: trap 13. Unchanged is per column: `workload::*`.
//! - Slot creation waits for running transactions: `ingest::a_copy_that_waits_for_a_transaction_goes_on_when_it_ends`.
//! - PostgreSQL 15 after a publication was made anew is stuck, 18 loses rows in silence:
//!   `publication::a_publication_that_is_dropped_and_made_anew`.
//! - Column lists: two for one table on one slot cannot be, since Rektor asks for one publication.
//! - Partitioned tables are copied leaf by leaf: `ingest::partitions_come_and_go`, `partitions::*`.
//! - Protocol 1 delivers a huge transaction whole: said in the README. The journal's bounds: `store::journal::tests`.
//! - The audit's fences: the audit's own tests.

mod columns;
mod disk;
mod fixture;
mod partitions;
mod primary;
mod publication;
mod slot;
