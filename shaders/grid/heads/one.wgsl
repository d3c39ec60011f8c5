// one: a thread writes its unit of one head. scatter/write defines `write_unit`.

const HEADS_OF_THREAD = 1u;

fn write_heads(place: Place, unit: u32, local: u32) {
    write_unit(place, unit, local);
}
