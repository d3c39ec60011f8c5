// seen: which positions the rows of a tile see.

override CAUSAL: bool;
override LAG: u32;         // positions up to its own that a query does not see
override WINDOWED: bool;   // a query sees SINKS positions, and the WINDOW before those
override WINDOW: u32;
override SINKS: u32;
override MASKED: bool;

// Positions up to the last that the query of a token sees.
fn end_of(place: Place, token: u32) -> u32 {
    var end = place.length;
    if CAUSAL && WRITTEN {
        end = place.start + token + 1u;
    } else if CAUSAL {
        end -= min(end, params.tokens - 1u - token);
    }
    return end - min(end, LAG);
}

// What is seen by some row of a tile: positions below `sinks`, and from `first` on, `count` together. Those from
// `clean` on, counted likewise, and before `clean_end` are seen by every row.
struct Seen {
    sinks: u32,
    first: u32,
    count: u32,
    clean: u32,
    clean_end: u32,
}

fn seen_by(place: Place) -> Seen {
    let rows = place.count * GROUP;
    if place.first_row >= rows {
        return Seen();
    }
    let last_row = min(place.first_row + ROWS, rows) - 1u;
    let earliest = end_of(place, place.first_row / GROUP);
    let latest = end_of(place, last_row / GROUP);
    let sinks = min(SINKS, latest);
    var first = sinks;
    var clean = 0u;
    if WINDOWED {
        first = min(max(sinks, earliest - min(earliest, WINDOW)), latest);
        // The last row's window begins last.
        let last = max(first, latest - min(latest, WINDOW));
        clean = select(sinks + (last - first), 0u, last == sinks);
    }
    let count = sinks + (latest - first);
    return Seen(sinks, first, count, clean, count - min(count, latest - earliest));
}

fn seen_position(seen: Seen, index: u32) -> u32 {
    return select(seen.first + (index - seen.sinks), index, index < seen.sinks);
}

// The chunks from `start` that lie in whole among what every row sees: the first of them, and the end of the last.
fn clean_chunks(seen: Seen, start: u32, end: u32) -> vec2<u32> {
    let clean = max(seen.clean, start);
    let first = start + (clean - start + CHUNK - 1u) / CHUNK * CHUNK;
    let last = min(seen.clean_end, end);
    if MASKED || last < first + CHUNK {
        return vec2<u32>(end, end);
    }
    return vec2<u32>(first, first + (last - first) / CHUNK * CHUNK);
}

fn is_seen(place: Place, row: Row, position: u32) -> bool {
    let end = end_of(place, row.token);
    let near = !WINDOWED || position < SINKS || end - position <= WINDOW;
    return row.inside && position < end && near;
}
