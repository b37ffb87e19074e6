package main

import (
	"fmt"
	"strconv"
	"strings"
)

// Cursor is a place in the notification stream: the control_version up to which all is applied, and
// the incarnation of the stream that gave it; "" where that is not known.
type Cursor struct {
	Version     uint64
	Incarnation string
}

// ParseCursor reads what String wrote, or a number alone.
func ParseCursor(text string) (c Cursor, err error) {
	number, id, _ := strings.Cut(strings.TrimSpace(text), " ")
	c.Incarnation = id
	c.Version, err = strconv.ParseUint(number, 10, 64)
	return c, err
}

func (c Cursor) String() string {
	return strings.TrimSpace(fmt.Sprint(c.Version, " ", c.Incarnation))
}

// Incarnation is one history of a stream: a server that lost its memory, or its tail, begins another.
type Incarnation struct {
	ID          string
	Kept, Began uint64 // what it kept of the one before; the first of its own
}

// fullList has so many lines that its oldest may be two that became one.
const fullList = 64

// Incarnations reads the field list of {N}:incarnations. The newest is the last.
func Incarnations(list string) (found []Incarnation) {
	for _, line := range strings.Split(list, "\n") {
		var one Incarnation
		if n, err := fmt.Sscanf(line, "%s %d %d", &one.ID, &one.Kept, &one.Began); n == 3 && err == nil {
			found = append(found, one)
		}
	}
	return found
}

// Lost says whether what came after the cursor may be of a history that was lost. isThere says
// whether the stream has the cursor's entry.
func (c Cursor) Lost(list []Incarnation, isThere bool) bool {
	for at, one := range list {
		if one.ID == c.Incarnation {
			for _, later := range list[at+1:] {
				if c.Version > later.Kept {
					return true
				}
			}
			return false
		}
	}
	isKnown := c.Incarnation != ""
	if isKnown && len(list) > 0 && len(list) < fullList {
		return true
	}
	if isThere {
		return false
	}
	for _, one := range list {
		isKnown = isKnown || one.Kept < c.Version && c.Version < one.Began
	}
	return isKnown
}
