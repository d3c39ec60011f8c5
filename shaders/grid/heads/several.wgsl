// several: a thread writes its unit of some heads of a run, one after the other. It reads the run once, which a
// software driver does for each thread, although a workgroup has one run. scatter/write defines `write_unit`.
//
// Bounds:  the host ensures that every dispatch has all heads of its runs, and that HEADS_OF_THREAD divides them.

override HEADS_OF_THREAD: u32;

fn write_heads(first: Place, unit: u32, local: u32) {
    var place = first;
    for (var head = 0u; head < HEADS_OF_THREAD; head++) {
        write_unit(place, unit, local);
        place.plane += 1u;
        place.head += 1u;
    }
}
