package result

import (
	"maps"
	"slices"
)

// ReferencedIDs returns the IDs of the table of references.
func ReferencedIDs() []string { return slices.Sorted(maps.Keys(references)) }

// Edition is a document that is cited.
type Edition struct{ Title, Edition string }

// Documents returns the document of each ID of the table.
func Documents() map[string]Edition {
	out := map[string]Edition{}
	for id, c := range references {
		out[id] = Edition{c.doc.title, c.doc.edition}
	}
	return out
}
