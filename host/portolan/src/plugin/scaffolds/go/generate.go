// {{name}}: a routing policy of portolan. The rest of this package is bindings, which `go generate` writes.
package main

//go:generate portolan plugin bindings go . --world {{world}}
