package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Event is what a notification says; fields that are absent are zero.
type Event struct {
	ID               int64  `json:"id"`
	EventID          string `json:"event_id"`
	Type             string `json:"type"`
	TenantID         string `json:"tenant_id,omitempty"`
	StackID          string `json:"stack_id,omitempty"`
	Version          int64  `json:"version,omitempty"`
	BaseVersion      int64  `json:"base_version,omitempty"`
	ArtifactRef      string `json:"artifact_ref,omitempty"`
	Checksum         string `json:"checksum,omitempty"`
	ManifestChecksum string `json:"manifest_checksum,omitempty"`
	ControlVersion   uint64 `json:"control_version"`
	CreatedAt        string `json:"created_at,omitempty"`
}

// Notification is an entry of the notification stream.
type Notification struct {
	Event
	Origin      string
	Traceparent string
}

// EntryID is the ID of the entry that has this control_version.
func EntryID(controlVersion uint64) string {
	return fmt.Sprintf("%d-%d", controlVersion/1000, controlVersion%1000)
}

// ControlVersion is what an entry's ID stands for.
func ControlVersion(id string) (uint64, error) {
	ms, sequence, ok := strings.Cut(id, "-")
	high, err := strconv.ParseUint(ms, 10, 64)
	low, err2 := strconv.ParseUint(sequence, 10, 64)
	if !ok || err != nil || err2 != nil {
		return 0, fmt.Errorf("%q is no entry ID", id)
	}
	return high*1000 + low, nil
}

// Decode reads an entry, whose ID must be its control_version.
func Decode(id string, fields map[string]string) (Notification, error) {
	n := Notification{Origin: fields["origin"], Traceparent: fields["traceparent"]}
	if err := json.Unmarshal([]byte(fields["event"]), &n.Event); err != nil {
		return n, fmt.Errorf("entry %s: %w", id, err)
	}
	if n.Origin == "" || EntryID(n.ControlVersion) != id {
		return n, fmt.Errorf("entry %s is no notification", id)
	}
	return n, nil
}

// Stream is what Redis says of the notification stream.
type Stream struct {
	First, End, Trimmed  uint64 // control_versions; Trimmed 0: nothing was
	Length, EntriesAdded int64  // EntriesAdded -1: Redis before 7.0 does not say
	Gone                 int64  // so many of all it ever had were gone with Trimmed; -1: nobody says
}

// ErrGap: what the cursor was at is gone. Begin again from a state.
var ErrGap = errors.New("gap")

// Gap says whether notifications after the cursor are lost, and how: "", "trimmed", "tail_lost" or
// "made_anew". isThere says whether the stream has the cursor's entry.
func (s Stream) Gap(at Cursor, list []Incarnation, isThere bool) string {
	cursor := at.Version
	first := s.First
	if first == 0 || first > s.End {
		first = s.End
	}
	switch {
	case cursor == 0:
		return "" // from the oldest there is
	case cursor > s.End:
		return "tail_lost"
	case at.Lost(list, isThere):
		return "made_anew"
	case cursor < s.Trimmed:
		return "trimmed"
	case s.Trimmed < cursor && cursor < first && s.EntriesAdded != s.Length:
		return "trimmed" // by hand: nobody knows how far
	case s.Trimmed == cursor && cursor < first && s.Gone >= 0 && s.EntriesAdded-s.Length > s.Gone:
		return "trimmed" // by hand, right behind what the sidecar trimmed
	}
	return ""
}
