package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// The record of a running sandbox changes when a network is attached or detached. Its other elements keep all of their
// members.

// Extend appends an attachment to the record of a running sandbox, durably and as pending. of is the record, and gives
// the attachment its sandbox. The attachment is pending until MarkAttached or Drop is called for it, so that after a
// kill it is known that its delegates may have run.
func (s *Store) Extend(of *Record, a *Attachment) error {
	err := s.edit(of.ContainerID, func(elements []rawElement) ([]rawElement, error) {
		added := *a
		added.Pending = true
		e, err := encode(&added, len(elements), of)
		if err != nil {
			return nil, err
		}
		if of.BinDir != s.BinDir {
			e.BinDir = of.BinDir
		}
		e.Boot = s.Boot
		e.IfName = a.IfName // it does not follow from the position, which changes when others are dropped
		var raw rawElement
		if err := json.Unmarshal(e.appendJSON(nil), &raw); err != nil {
			return nil, err
		}
		return append(elements, raw), nil
	})
	if err != nil {
		return fmt.Errorf("record network %s of container %s: %w", a.Name, of.ContainerID, err)
	}
	return nil
}

// MarkAttached records that a pending attachment of a record that was read is attached.
func (s *Store) MarkAttached(of *Record, a *Attachment) error {
	if err := s.setPending(of, a, false); err != nil {
		return fmt.Errorf("record that network %s of container %s is attached: %w", a.Name, of.ContainerID, err)
	}
	return nil
}

// MarkPending records that an attachment of a record that was read is being detached from a running sandbox. It is
// pending until Drop is called for it.
func (s *Store) MarkPending(of *Record, a *Attachment) error {
	if err := s.setPending(of, a, true); err != nil {
		return fmt.Errorf("record that network %s of container %s is being detached: %w", a.Name, of.ContainerID, err)
	}
	return nil
}

// MarkReattaching records whether an attachment of a record that was read is being made again.
func (s *Store) MarkReattaching(of *Record, a *Attachment, reattaching bool) error {
	err := s.editElement(of, a, func(elements []rawElement) []rawElement {
		setBool(elements[a.element], "reattaching", reattaching)
		return elements
	})
	if err != nil {
		return fmt.Errorf("record that network %s of container %s is attached again: %w", a.Name, of.ContainerID, err)
	}
	return nil
}

func (s *Store) setPending(of *Record, a *Attachment, pending bool) error {
	return s.editElement(of, a, func(elements []rawElement) []rawElement {
		setBool(elements[a.element], "pending", pending)
		return elements
	})
}

// Drop removes an attachment from a record that was read. The elements after it keep their interfaces.
func (s *Store) Drop(of *Record, a *Attachment) error {
	err := s.editElement(of, a, func(elements []rawElement) []rawElement {
		for i := a.element + 1; i < len(elements); i++ {
			if elements[i] != nil && len(elements[i]["ifnameRequest"]) == 0 {
				elements[i]["ifnameRequest"] = json.RawMessage(strconv.Quote(generatedName(i)))
			}
		}
		return append(elements[:a.element], elements[a.element+1:]...)
	})
	if err != nil {
		return fmt.Errorf("remove network %s from the record of container %s: %w", a.Name, of.ContainerID, err)
	}
	return nil
}

// errNoElement is returned for an attachment that is known from libcni's result alone.
var errNoElement = errors.New("the attachment is not in the record")

func (s *Store) editElement(of *Record, a *Attachment, change func([]rawElement) []rawElement) error {
	return s.edit(of.ContainerID, func(elements []rawElement) ([]rawElement, error) {
		if a.element < 0 || a.element >= len(elements) || elements[a.element] == nil {
			return nil, errNoElement
		}
		return change(elements), nil
	})
}
