// ring: where a position lies in a plane: sinks in the slots of their numbers, the others wrap over the rest.

fn reader_slot(position: u32) -> u32 {
    let row = (max(position, reader_sinks) - reader_sinks) % reader_wrap;
    return select(reader_sinks + row, position, position < reader_sinks);
}
