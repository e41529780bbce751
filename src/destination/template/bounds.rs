//! Filters with a limit on the length of their results. minijinja's own filters build the whole result before
//! they write any of it, so a limit on the output comes too late: `replace` makes gigabytes of two texts of a
//! megabyte. These filters stop at [`TEXT_BYTES`] and call minijinja's if the result is shorter.

use minijinja::value::{ArgType, Kwargs, Rest, StringInput, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, filters};

/// The longest text of a post that a template sees, and the longest result of a filter: more than any
/// field of a ticket takes.
pub const TEXT_BYTES: usize = 256 << 10;
/// The members of a post's list that a template sees.
pub const MEMBERS: usize = 500;
/// The largest width, precision or number of columns, which may come from a post.
const WIDTH: usize = 1000;

/// Replaces minijinja's filters by the bounded ones.
pub fn bound_filters(environment: &mut Environment<'static>) {
    environment.add_filter("replace", replace);
    environment.add_filter("join", join);
    environment.add_filter("indent", indent);
    environment.add_filter("format", format);
    environment.add_filter("slice", slice);
    environment.add_filter("batch", batch);
}

/// The start of a text, cut between characters.
pub fn start_of(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

fn replace(
    state: &mut State,
    value: StringInput<'_>,
    from: StringInput<'_>,
    to: StringInput<'_>,
) -> Result<Value, Error> {
    let (text, old, new) = (value.as_str(), from.as_str(), to.as_str());
    let matches = text.matches(old).count();
    let kept = text.len() - matches * old.len();
    if kept.saturating_add(matches.saturating_mul(new.len())) <= TEXT_BYTES {
        return filters::replace(state, value, from, to);
    }
    let mut cut = String::new();
    let mut end = 0;
    for (at, _) in text.match_indices(old) {
        cut.push_str(&text[end..at]);
        cut.push_str(start_of(new, TEXT_BYTES));
        end = at + old.len();
        if cut.len() > TEXT_BYTES {
            break;
        }
    }
    cut.push_str(&text[end..]);
    Ok(Value::from(start_of(&cut, TEXT_BYTES)))
}

fn join(
    state: &mut State,
    value: &Value,
    joiner: Option<StringInput<'_>>,
    attribute: Option<&str>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let Ok(members) = value.try_iter() else {
        return filters::join(state, value, joiner, attribute, kwargs);
    };
    let between = match &joiner {
        Some(joiner) => joiner.as_str().len(),
        None => kwargs.get::<Option<&str>>("d")?.map_or(0, str::len),
    };
    let name = attribute.or(kwargs.get::<Option<&str>>("attribute")?);
    let mut bytes = 0_usize;
    let fits = |member: &Value| {
        let part = name.and_then(|name| member.get_attr(name).ok()).filter(|part| !part.is_undefined());
        bytes = bytes.saturating_add(between).saturating_add(length(part.as_ref().unwrap_or(member)));
        bytes <= TEXT_BYTES.saturating_add(between)
    };
    let members: Vec<Value> = members.take_while(fits).collect();
    filters::join(state, &Value::from(members), joiner, attribute, kwargs)
}

fn indent(
    value: StringInput<'_>,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let columns = width.or(kwargs.get::<Option<usize>>("width")?).unwrap_or(4);
    check_width(columns)?;
    let mut bytes = 0;
    let fits = |line: &&str| {
        bytes += line.len() + columns;
        bytes <= TEXT_BYTES
    };
    let end = value.as_str().split_inclusive('\n').take_while(fits).map(str::len).sum();
    let text = value.preserve_safety(value.as_str()[..end].to_owned());
    filters::indent(<StringInput<'_>>::from_value(Some(&text))?, width, first, blank, kwargs)
}

fn format(state: &mut State, text: &Value, values: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let pattern = text.as_str().unwrap_or_default().replace("%%", "");
    let specs: Vec<&str> = pattern.split('%').skip(1).collect();
    let widths: Vec<usize> = specs.iter().flat_map(|spec| widths(spec)).collect();
    widths.iter().try_for_each(|width| check_width(*width))?;
    let values_bytes = values.iter().map(|value| length(value)).fold(0, usize::saturating_add);
    // A named value can be repeated.
    let times = specs.iter().filter(|spec| spec.starts_with('(')).count().max(1);
    let bytes = pattern.len() + widths.iter().sum::<usize>();
    if bytes.saturating_add(values_bytes.saturating_mul(times)) > TEXT_BYTES {
        return Err(Error::new(ErrorKind::InvalidOperation, "the formatted text would be too long"));
    }
    filters::format(state, text, values)
}

/// The width and the precision of what follows a `%`: `(name)`, flags, width, `.` and precision.
fn widths(spec: &str) -> impl Iterator<Item = usize> {
    let named = spec.strip_prefix('(').and_then(|rest| rest.split_once(')'));
    let spec = named.map_or(spec, |(_, after)| after);
    let end = spec.find(|c: char| !c.is_ascii_digit() && !"#- +.".contains(c)).unwrap_or(spec.len());
    let numbers = spec[..end].split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    // A number that is too long to be read is larger than any limit.
    numbers.map(|digits| digits.parse().unwrap_or(usize::MAX))
}

fn slice(state: &State, value: Value, count: usize, fill: Option<Value>) -> Result<Value, Error> {
    check_width(count)?;
    filters::slice(state, value, count, fill)
}

fn batch(state: &State, value: Value, count: usize, fill: Option<Value>) -> Result<Value, Error> {
    check_width(count)?;
    filters::batch(state, value, count, fill)
}

fn check_width(width: usize) -> Result<(), Error> {
    match width <= WIDTH {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::InvalidOperation, "a width is larger than 1000")),
    }
}

fn length(value: &Value) -> usize {
    match value.kind() {
        ValueKind::String => value.as_str().map_or(0, str::len),
        _ => value.to_string().len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str, post: &str, number: usize) -> Result<String, String> {
        let mut environment = Environment::new();
        bound_filters(&mut environment);
        let context =
            minijinja::context! { text => Value::from(post), number, list => vec![Value::from(post); 400] };
        environment.render_str(text, context).map_err(|error| error.to_string())
    }

    #[test]
    fn filters_stop_at_256_kib() {
        let post = "a\n".repeat(TEXT_BYTES / 2);
        for text in [
            "{{ text|replace('a', text) }}",
            "{{ text|replace('', text) }}",
            "{{ list|join }}",
            "{{ list|join(text) }}",
            "{{ list|join(d=text) }}",
            "{{ text|join(text) }}",
            "{{ text|indent(1000) }}",
            "{{ text|indent(width=1000, first=true, blank=true) }}",
        ] {
            let made = rendered(text, &post, 0).unwrap();
            assert!((1..=TEXT_BYTES + 1000).contains(&made.len()), "{text}: {}", made.len());
        }
        for text in
            ["{{ '%s%s'|format(text, text) }}", "{{ text|format }}{{ ('%(x)s' * 9)|format({'x': text}) }}"]
        {
            assert!(rendered(text, &post, 0).unwrap_err().contains("too long"), "{text}");
        }
    }

    #[test]
    fn a_width_of_a_post_is_limited() {
        for text in [
            "{{ text|indent(number) }}",
            "{{ text|indent(width=number) }}",
            "{{ ('%' ~ number ~ 'd')|format(1) }}",
            "{{ ('%0' ~ number ~ 'd')|format(1) }}",
            "{{ ('%(x)-' ~ number ~ 'd')|format({'x': 1}) }}",
            "{{ ('%.' ~ number ~ 'f')|format(1.5) }}",
            "{{ list|slice(number) }}",
            "{{ list|batch(number, 'x') }}",
        ] {
            assert!(rendered(text, "a\nb", 30).is_ok(), "{text}");
            let error = rendered(text, "a\nb", 100_000_000).unwrap_err();
            assert!(error.contains("a width is larger than 1000"), "{text}: {error}");
        }
    }

    #[test]
    fn within_the_bounds_nothing_is_different() {
        for text in [
            "{{ text|replace('a', 'é') }}{{ text|replace('', '-') }}{{ text|replace('x', text) }}",
            "{{ list|join(', ') }}{{ list|join }}{{ 'abc'|join('-') }}{{ [{'a': 1}, {'a': 2}]|join('+', attribute='a') }}",
            "{{ text|indent }}{{ text|indent(3, true, true) }}{{ text|indent(width=2) }}",
            "{{ '%5s|%-7.2f|100%%|%(x)s'|replace('%(x)s', '')|format(text, 1.5) }}{{ '%(x)s %(x)s 12345'|format({'x': text}) }}",
            "{% for row in list|batch(3, '-') %}{{ row|join(' ') }};{% endfor %}{{ list|slice(3)|list|length }}",
        ] {
            let original = Environment::new()
                .render_str(text, minijinja::context!(text => "äa\n\nb ab", list => vec!["äa\n\nb ab"; 400]));
            assert_eq!(rendered(text, "äa\n\nb ab", 0).unwrap(), original.unwrap(), "{text}");
        }
    }
}
