"""The scalar functions of DuckDB that a query may call, by what they return.

A list of what is allowed, not of what is refused: DuckDB also has scalar functions that read settings,
sequences or the clock, write logs or sleep, and new ones come with each version. A query's result depends on
its rows and seed only.
"""

from __future__ import annotations

from collections.abc import Mapping

_NUMERIC = """
    acos acosh asin asinh atan atan2 atanh cbrt ceil ceiling cos cosh cot degrees even exp floor gamma lgamma
    ln log log10 log2 nextafter pi pow power radians round round_even sin sinh tan tanh trunc
    jaccard jaro_similarity jaro_winkler_similarity epoch julian
"""
_INTEGER = """
    ascii bit_count bit_length char_length character_length damerau_levenshtein editdist3 gcd hamming instr
    lcm len length levenshtein mismatches octet_length ord position sign strlen strpos unicode date_diff
    date_part date_sub datediff datepart datesub day dayofmonth dayofweek dayofyear decade century epoch_ms
    hour isodow isoyear microsecond millennium millisecond minute month quarter second week weekday
    weekofyear year yearweek array_length json_array_length list_position list_unique
"""
_BOOLEAN = """
    contains ends_with isfinite isinf isnan prefix regexp_full_match regexp_matches signbit starts_with suffix
    json_contains json_exists json_valid list_contains list_has list_has_all list_has_any array_contains
"""
_TEXT = """
    bar base64 bin chr concat concat_ws dayname format format_bytes from_base64 hex lcase left lower lpad
    ltrim md5 monthname nfc_normalize parse_filename printf regexp_escape regexp_extract regexp_replace
    repeat replace reverse right rpad rtrim sha1 sha256 strftime strip_accents substr substring to_base
    to_hex translate trim typeof ucase upper url_decode url_encode json_type
"""
_OTHER = """
    date_trunc datetrunc last_day make_date make_time make_timestamp strptime time_bucket to_days to_hours
    to_minutes to_seconds to_timestamp try_strptime
    list_distinct list_reverse_sort list_slice list_sort regexp_extract_all split str_split string_split
    array_slice greatest least coalesce ifnull nullif hash xor
"""

#: function -> dtype of its result
FUNCTIONS: Mapping[str, str] = {
    **dict.fromkeys(_NUMERIC.split(), "float64"),
    **dict.fromkeys(_INTEGER.split(), "int64"),
    **dict.fromkeys(_BOOLEAN.split(), "bool"),
    **dict.fromkeys(_TEXT.split(), "text"),
    **dict.fromkeys(_OTHER.split(), "any"),
}

#: functions of one number that return a number: over an array they go element by element
ELEMENTWISE = frozenset(
    [
        "acos",
        "acosh",
        "asin",
        "asinh",
        "atan",
        "atanh",
        "cbrt",
        "ceil",
        "ceiling",
        "cos",
        "cosh",
        "degrees",
        "exp",
        "floor",
        "isfinite",
        "isinf",
        "isnan",
        "ln",
        "log",
        "log10",
        "log2",
        "radians",
        "round",
        "round_even",
        "sign",
        "sin",
        "sinh",
        "tan",
        "tanh",
        "trunc",
    ]
)

#: functions that take a whole array, as a flat list
WHOLE_LIST = frozenset(name for name in FUNCTIONS if name.startswith(("list_", "array_"))) | {"len"}

#: functions whose result has the common type of their arguments
SAME_TYPE = frozenset(("greatest", "least", "coalesce", "ifnull", "nullif"))

#: functions that take whatever they are given as text
JOINING = frozenset(("concat", "concat_ws"))

#: aggregates, which are refused with a word about GROUP BY
AGGREGATES = frozenset(
    [
        "count",
        "avg_if",
        "count_if",
        "median",
        "mode",
        "stddev",
        "stddev_pop",
        "stddev_samp",
        "variance",
        "var_pop",
        "var_samp",
        "string_agg",
        "group_concat",
        "first",
        "last",
        "any_value",
        "arg_max",
        "arg_min",
        "array_agg",
        "list",
        "quantile",
        "quantile_cont",
        "approx_quantile",
        "bool_and",
        "bool_or",
        "sum_no_overflow",
        "histogram",
        "entropy",
        "kurtosis",
        "skewness",
        "corr",
    ]
)
