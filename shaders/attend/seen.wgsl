// seen: which positions the rows of a tile see.

override CAUSAL: bool;
override WINDOWED: bool;   // a query sees SINKS positions, and WINDOW up to its own
override WINDOW: u32;
override SINKS: u32;
override MASKED: bool;

// The queries of a plane.
struct Queries {
    plane: u32,
    length: u32, // of the sequence
    start: u32,  // position of the first row just written
    count: u32,  // rows of queries
}

// A part of the work on a plane: split `split` of `splits`, where a plane has room for `rows` rows of partial sums.
struct Part {
    plane: u32,
    rows: u32,
    split: u32,
    splits: u32,
}

// Positions up to and with that of the query of a token: it sees none after them.
fn end_of(queries: Queries, token: u32) -> u32 {
    if !CAUSAL {
        return queries.length;
    }
    if WRITTEN {
        return queries.start + token + 1u;
    }
    return queries.length - min(queries.length, params.tokens - 1u - token);
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

fn seen_by(queries: Queries, first_row: u32) -> Seen {
    let rows = queries.count * GROUP;
    if first_row >= rows {
        return Seen();
    }
    let last_row = min(first_row + ROWS, rows) - 1u;
    let earliest = end_of(queries, first_row / GROUP);
    let latest = end_of(queries, last_row / GROUP);
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

fn is_seen(queries: Queries, row: Row, position: u32) -> bool {
    let end = end_of(queries, row.token);
    let near = !WINDOWED || position < SINKS || end - position <= WINDOW;
    return row.inside && position < end && near;
}
