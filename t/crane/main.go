// What crane's library says of references: for each of the arguments a line with the digest that HEAD tells, the digest
// that GET tells, and the bytes of the manifest in hexadecimal.
package main

import (
	"fmt"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func main() {
	for _, text := range os.Args[1:] {
		reference, err := name.ParseReference(text, name.Insecure)
		if err != nil {
			fail(err)
		}
		head, err := remote.Head(reference)
		if err != nil {
			fail(err)
		}
		got, err := remote.Get(reference)
		if err != nil {
			fail(err)
		}
		fmt.Printf("%s %s %x\n", head.Digest, got.Digest, got.Manifest)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
