// Package runtime gives the gateway memory of Go's own heap, and keeps it alive until the bindings have read it.
package runtime

import (
	"runtime"
	"unsafe"
)

// What the gateway wrote and nobody has read yet.
var held [][]uint64

// Memory of so many bytes, aligned for everything. It is not looked through for pointers: whoever writes some into it keeps
// alive what they lead to.
func memory(size uintptr) []uint64 {
	return make([]uint64, max(1, (size+7)/8))
}

// Allocate gives memory that stays where it is until the pinner lets go.
func Allocate(pinner *runtime.Pinner, size, align uintptr) unsafe.Pointer {
	at := unsafe.Pointer(unsafe.SliceData(memory(size)))
	pinner.Pin(at)
	return at
}

// Unpin lets go of what the gateway wrote. What the bindings made of it points there, and keeps it.
func Unpin() {
	clear(held)
	held = held[:0]
}

//go:wasmexport cabi_realloc
func cabiRealloc(old unsafe.Pointer, oldSize, align, size uintptr) unsafe.Pointer {
	fresh := memory(size)
	at := unsafe.Pointer(unsafe.SliceData(fresh))
	if oldSize > 0 {
		copy(unsafe.Slice((*byte)(at), size), unsafe.Slice((*byte)(old), oldSize))
	}
	held = append(held, fresh)
	return at
}
