// ring: stores a sink in the slot of its position; all other positions wrap over the remaining slots.

#import planes.wgsl

fn reader_slot(position: u32) -> u32 {
    let row = (max(position, reader_sinks) - reader_sinks) % reader_wrap;
    return select(reader_sinks + row, position, position < reader_sinks);
}
