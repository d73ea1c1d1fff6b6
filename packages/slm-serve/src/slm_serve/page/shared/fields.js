const named = (form) => [...form.elements].filter(({ name }) => name);

/** The values of the named controls of a form. */
export function readFields(form) {
  const values = {};
  for (const field of named(form)) {
    if (field.type === "checkbox") values[field.name] = field.checked;
    else if (field.type !== "radio") values[field.name] = field.dataset.wanted ?? field.value;
    else if (field.checked) values[field.name] = field.value;
  }
  return values;
}

export function writeFields(form, values) {
  for (const field of named(form).filter(({ name }) => name in values)) {
    if (field.type === "checkbox") field.checked = values[field.name];
    else if (field.type === "radio") field.checked = field.value === values[field.name];
    else field.value = values[field.name];
    if (field.dataset.wanted !== undefined) field.dataset.wanted = values[field.name];
  }
}
