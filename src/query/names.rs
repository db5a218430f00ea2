//! Names of PostgreSQL's and pgvector's functions, operators and types → what calling them can do.
//! An allow-list: what is not named here is unknown, and unknown is never taken for harmless. Names are looked at without
//! their argument types, so a user's own overload of a well-known name counts as the well-known one.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// What calling a function can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    /// Immutable or stable, one value a call.
    Stable,
    /// Another value at every call, but it changes nothing.
    Volatile,
    /// Volatile, and it writes, waits or locks.
    Writes,
    /// `set_config`: it changes settings.
    Settings,
    /// Several rows a call.
    SetReturning,
    /// An aggregate.
    Aggregate,
    /// A window function: never without OVER.
    Window,
}

/// Functions of `pg_catalog` since PostgreSQL 15 all of whose overloads are immutable or stable and return one value.
/// Later servers' functions are left out: on an earlier one such a name may be a user's function.
const STABLE: &str = "
abbrev abs acos acosd acosh age area array_append array_cat array_dims array_fill array_length array_lower array_ndims
array_position array_positions array_prepend array_remove array_replace array_to_json array_to_string
array_to_tsvector array_upper ascii asin asind asinh atan atan2 atan2d atand atanh bit bit_count bit_length bool box
bpchar broadcast btrim cardinality cbrt ceil ceiling center char char_length character_length chr cidr circle
col_description concat concat_ws convert convert_from convert_to cos cosd cosh cot cotd current_database
current_schema current_schemas current_setting current_user date date_bin date_part date_trunc datemultirange
daterange decode degrees diagonal diameter div encode enum_first enum_last enum_range exp extract factorial family
float4 float8 floor format format_type gcd get_bit get_byte get_current_ts_config has_any_column_privilege
has_column_privilege has_database_privilege has_function_privilege has_schema_privilege has_sequence_privilege
has_table_privilege has_type_privilege hashint4 hashint8 hashtext height host hostmask inet_client_addr
inet_client_port inet_merge inet_same_family inet_server_addr inet_server_port initcap int2 int4 int4multirange
int4range int8 int8multirange int8range interval is_normalized isempty isfinite json_array_length json_build_array
json_build_object json_extract_path json_extract_path_text json_object json_populate_record json_strip_nulls
json_to_record json_to_tsvector json_typeof jsonb_array_length jsonb_build_array jsonb_build_object jsonb_concat
jsonb_contained jsonb_contains jsonb_delete jsonb_delete_path jsonb_exists jsonb_exists_all jsonb_exists_any
jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object jsonb_path_exists jsonb_path_exists_opr
jsonb_path_exists_tz jsonb_path_match jsonb_path_match_opr jsonb_path_match_tz jsonb_path_query_array
jsonb_path_query_array_tz jsonb_path_query_first jsonb_path_query_first_tz jsonb_populate_record jsonb_pretty
jsonb_set jsonb_set_lax jsonb_strip_nulls jsonb_to_record jsonb_to_tsvector jsonb_typeof justify_days justify_hours
justify_interval lcm left length like like_escape line ln log log10 lower lower_inc lower_inf lpad lseg ltrim macaddr
macaddr8 make_date make_interval make_time make_timestamp make_timestamptz masklen md5 min_scale mod money multirange
name netmask network normalize notlike now npoints num_nonnulls num_nulls numeric numeric_div_trunc nummultirange
numnode numrange obj_description octet_length oid overlaps overlay parse_ident path pclose pg_backend_pid
pg_client_encoding pg_collation_for pg_column_compression pg_column_size pg_current_snapshot
pg_current_xact_id_if_assigned pg_encoding_to_char pg_get_constraintdef pg_get_expr pg_get_functiondef pg_get_indexdef
pg_get_partkeydef pg_get_serial_sequence pg_get_userbyid pg_get_viewdef pg_has_role pg_is_other_temp_schema pg_lsn
pg_my_temp_schema pg_partition_root pg_postmaster_start_time pg_relation_filenode pg_size_bytes pg_size_pretty
pg_table_is_visible pg_type_is_visible pg_function_is_visible pg_typeof pg_wal_lsn_diff phraseto_tsquery pi
plainto_tsquery point polygon popen position pow power querytree quote_ident quote_literal quote_nullable radians
radius range_merge regclass regexp_count regexp_instr regexp_like regexp_match regexp_replace regexp_split_to_array
regexp_substr repeat replace reverse right round row_security_active row_to_json rpad rtrim scale session_user set_bit
set_byte set_masklen setweight sha224 sha256 sha384 sha512 shobj_description sign similar_escape similar_to_escape sin
sind sinh slope split_part sqrt starts_with statement_timestamp string_to_array strip strpos substr substring tan tand
tanh text textlen texticlike textlike time timestamp timestamptz timetz timezone to_ascii to_char to_date to_hex
to_json to_jsonb to_number to_regclass to_regnamespace to_regoper to_regoperator to_regproc to_regprocedure to_regrole
to_regtype to_timestamp to_tsquery to_tsvector transaction_timestamp translate trim_array trim_scale trunc ts_delete
ts_filter ts_headline ts_lexize ts_rank ts_rank_cd tsmultirange tsquery_phrase tsrange tstzmultirange tstzrange
tsvector_to_array unistr upper upper_inc upper_inf varbit varchar version websearch_to_tsquery width width_bucket xml
xml_is_well_formed xmlcomment xmlexists xpath xpath_exists";

/// pgvector's functions, and those that `rektor setup` installs for `real[]`: in whatever schema.
const VECTOR_FUNCTIONS: &str = "
l2_distance inner_product cosine_distance l1_distance hamming_distance jaccard_distance vector_dims vector_norm
l2_norm l2_normalize binary_quantize subvector";

/// Volatile functions that change nothing.
const VOLATILE: &str = "
array_sample array_shuffle clock_timestamp current_query currval gen_random_uuid gen_random_bytes gen_salt lastval
pg_blocking_pids pg_current_wal_flush_lsn pg_current_wal_insert_lsn pg_current_wal_lsn pg_database_size pg_indexes_size
pg_is_in_recovery pg_last_committed_xact pg_last_wal_receive_lsn pg_last_wal_replay_lsn pg_last_xact_replay_timestamp
pg_relation_size pg_sleep pg_sleep_for pg_sleep_until pg_table_size pg_tablespace_size pg_total_relation_size
pg_xact_commit_timestamp pg_xact_status random random_normal setseed timeofday txid_status uuid_generate_v1
uuid_generate_v4 uuidv4 uuidv7";

/// Functions that write, lock, wait or assign a transaction id, or that run SQL given as text.
const WRITES: &str = "
nextval setval lo_create lo_creat lo_import lo_export lo_from_bytea lo_open lo_put lo_unlink lo_truncate loread lowrite
pg_advisory_lock pg_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_all pg_advisory_unlock_shared
pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_lock pg_try_advisory_lock_shared
pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared pg_cancel_backend pg_terminate_backend pg_reload_conf
pg_notify pg_logical_emit_message pg_switch_wal pg_create_restore_point pg_current_xact_id txid_current
pg_export_snapshot query_to_xml query_to_xmlschema query_to_xml_and_xmlschema cursor_to_xml ts_rewrite ts_stat
dblink dblink_exec";

/// Functions that return several rows.
const SET_RETURNING: &str = "
aclexplode generate_series generate_subscripts json_array_elements json_array_elements_text json_each json_each_text
json_object_keys json_populate_recordset json_to_recordset jsonb_array_elements jsonb_array_elements_text jsonb_each
jsonb_each_text jsonb_object_keys jsonb_path_query jsonb_path_query_tz jsonb_populate_recordset jsonb_to_recordset
pg_listening_channels pg_options_to_table pg_partition_ancestors pg_partition_tree pg_snapshot_xip regexp_matches
regexp_split_to_table string_to_table ts_debug ts_parse ts_token_type unnest";

/// Aggregates.
const AGGREGATES: &str = "
any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp every json_agg
json_agg_strict json_object_agg json_object_agg_strict json_object_agg_unique json_object_agg_unique_strict jsonb_agg
jsonb_agg_strict jsonb_object_agg jsonb_object_agg_strict jsonb_object_agg_unique jsonb_object_agg_unique_strict max min
mode percentile_cont percentile_disc range_agg range_intersect_agg regr_avgx regr_avgy regr_count regr_intercept regr_r2
regr_slope regr_sxx regr_sxy regr_syy stddev stddev_pop stddev_samp string_agg sum var_pop var_samp variance xmlagg
grouping";

/// Functions that need OVER. `rank`, `dense_rank`, `percent_rank` and `cume_dist` are also aggregates, with WITHIN GROUP.
const WINDOW: &str = "
cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number";

/// Types of `pg_catalog` whose input and conversion functions are immutable or stable.
const TYPES: &str = "
aclitem bit bool box bpchar bytea char cid cidr circle date datemultirange daterange float4 float8 inet int2 int4
int4multirange int4range int8 int8multirange int8range interval json jsonb jsonpath line lseg macaddr macaddr8 money name
numeric nummultirange numrange oid path pg_lsn pg_snapshot point polygon regclass regcollation regconfig regdictionary
regnamespace regoper regoperator regproc regprocedure regrole regtype text tid time timestamp timestamptz timetz
tsmultirange tsquery tsrange tstzmultirange tstzrange tsvector txid_snapshot uuid varbit varchar xid xid8 xml";

/// Types of pgvector and of other extensions, in whatever schema.
const EXTENSION_TYPES: &str = "
vector halfvec sparsevec citext hstore ltree lquery ltxtquery geometry geography";

/// Operators of `pg_catalog`, and those that pgvector and PostgreSQL's own extensions add. None has a volatile function.
const OPERATORS: &str = "
!! !~ !~* !~~ !~~* # ## #- #> #>> % & && &< &<| &> * *< *<= *<> *= *> *>= + - -> ->> -|- / < <-> << <<= <<| <= <> <@ <^ = >
>= >> >>= >^ ? ?# ?& ?- ?-| ?| ?|| @ @-@ @> @? @@ @@@ ^ ^@ | |&> |/ |>> || ||/ ~ ~* ~<=~ ~<~ ~= ~>=~ ~>~ ~~ ~~* !=
<#> <=> <+> <~> <%> %> <% %>> <<% <->> <<-> <->>> <<<-> %% %# @>> <<@ ^<@ ?@ ?~ ?<@ &/& &&& @@= &&<";

static FUNCTIONS: LazyLock<HashMap<&'static str, Nature>> = LazyLock::new(|| {
    [
        (STABLE, Nature::Stable),
        (VOLATILE, Nature::Volatile),
        (WRITES, Nature::Writes),
        ("set_config", Nature::Settings),
        (SET_RETURNING, Nature::SetReturning),
        (AGGREGATES, Nature::Aggregate),
        (WINDOW, Nature::Window),
    ]
    .into_iter()
    .flat_map(|(names, nature)| names.split_whitespace().map(move |name| (name, nature)))
    .collect()
});
static EXTENSION_FUNCTIONS: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| set(VECTOR_FUNCTIONS));
static TYPE_NAMES: LazyLock<HashSet<&'static str>> = LazyLock::new(|| set(TYPES));
static EXTENSION_TYPE_NAMES: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| set(EXTENSION_TYPES));
static OPERATOR_NAMES: LazyLock<HashSet<&'static str>> = LazyLock::new(|| set(OPERATORS));

fn set(names: &'static str) -> HashSet<&'static str> {
    names.split_whitespace().collect()
}

/// Where a name is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// No schema, or `pg_catalog`: PostgreSQL's own unless the user has an overload.
    Catalog,
    /// Another schema: a user's own or an extension's.
    Schema,
}

impl Scope {
    /// The scope of a name's parts.
    pub(super) fn of(names: &[&str]) -> Self {
        match names {
            [_] | ["pg_catalog", _] => Self::Catalog,
            _ => Self::Schema,
        }
    }
}

/// What a function of that name, in lower case and without its schema, can do; `None` when it is not well known.
pub(super) fn function(scope: Scope, name: &str) -> Option<Nature> {
    if EXTENSION_FUNCTIONS.contains(name) {
        return Some(Nature::Stable);
    }
    match scope {
        Scope::Catalog => FUNCTIONS.get(name).copied(),
        Scope::Schema => None,
    }
}

/// Whether a type of that name has harmless input and conversion functions.
pub(super) fn type_is_known(scope: Scope, name: &str) -> bool {
    EXTENSION_TYPE_NAMES.contains(name) || (scope == Scope::Catalog && TYPE_NAMES.contains(name))
}

/// Whether an operator of that name has a harmless function.
pub(super) fn operator_is_known(name: &str) -> bool {
    OPERATOR_NAMES.contains(name)
}
