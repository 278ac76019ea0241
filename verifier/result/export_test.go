package result

import (
	"maps"
	"slices"
)

// ReferencedIDs returns the IDs of the table of references.
func ReferencedIDs() []string { return slices.Sorted(maps.Keys(references)) }
