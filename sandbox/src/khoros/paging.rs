//! Pages of lists and feeds: none is given unless its size is asked for.

use std::collections::HashMap;

/// Up to `size` entries from `start` on. Where there are none: nothing, or with `nearest` the page that
/// is nearest.
pub(super) fn window<T>(entries: &[T], start: i64, size: usize, nearest: bool) -> &[T] {
    let is_inside = usize::try_from(start).is_ok_and(|start| start < entries.len());
    if size == 0 || entries.is_empty() || !(is_inside || nearest) {
        return &[];
    }
    let last_page = (entries.len() - 1) / size * size;
    let start = match usize::try_from(start) {
        Ok(start) if is_inside => start,
        Ok(_) => last_page,
        Err(_) => 0,
    };
    &entries[start..entries.len().min(start + size)]
}

/// Where the page of this number begins.
pub(super) fn start_of(number: u32, first: u32, size: u32) -> i64 {
    (i64::from(number) - i64::from(first)) * i64::from(size)
}

/// A number of the query string, `default` if it is missing, and none if it is no number.
pub(super) fn number(query: &HashMap<String, String>, name: &str, default: Option<u32>) -> Option<u32> {
    query.get(name).map_or(default, |value| value.parse().ok())
}
